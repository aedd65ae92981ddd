"""`python -m worker`: one worker process, or one for each GPU of this machine, and its watchdog."""

import sys

from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    sys.exit(run_watched("worker", "worker.worker_process"))
