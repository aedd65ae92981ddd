"""`python -m gateway`: one gateway process and its watchdog."""

import sys

from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    sys.exit(run_watched("gateway", "gateway.gateway_process"))
