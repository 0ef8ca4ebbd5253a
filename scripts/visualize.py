"""Figures, videos and a page about runs: ``python scripts/visualize.py runs/NAME``."""

import sys

from metarl.commands.report import report

if __name__ == "__main__":
    sys.exit(report(sys.argv[1:]))
