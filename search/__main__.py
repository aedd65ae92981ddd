"""`python -m search`: one indexer process and its watchdog."""

import sys

from shared.lifecycle.watchdog import run_watched

if __name__ == "__main__":
    sys.exit(run_watched("indexer", "search.indexer_process"))
