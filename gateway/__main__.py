"""`python -m gateway`: one gateway process and its watchdog."""

import sys

from shared.lifecycle.process_arguments import take_arguments
from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    take_arguments("gateway", sys.argv[1:], {"--sharing": 1})
    sys.exit(run_watched("gateway", "gateway.gateway_process"))
