"""`python -m worker`: runs one worker process, or one for each GPU of this machine, with its watchdog."""

import sys

from shared.lifecycle.process_arguments import take_arguments
from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    take_arguments("worker", sys.argv[1:], {"--alone": 0})
    sys.exit(run_watched("worker", "worker.worker_process"))
