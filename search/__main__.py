"""`python -m search`: one indexer process and its watchdog."""

import sys

from shared.lifecycle.process_arguments import take_arguments
from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    take_arguments("indexer", sys.argv[1:], {})
    sys.exit(run_watched("indexer", "search.indexer_process"))
