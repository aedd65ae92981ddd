"""`python -m worker.models`: prepare, verify, inspect and list models."""

import sys

from worker.models.model_command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
