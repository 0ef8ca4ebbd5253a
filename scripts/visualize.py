"""Figures, videos and a page about runs: ``python scripts/visualize.py runs/NAME``."""

import sys

from metarl.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
