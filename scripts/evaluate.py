"""Score a trained policy after every inner step: ``python scripts/evaluate.py runs/NAME``."""

import sys

from metarl.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
