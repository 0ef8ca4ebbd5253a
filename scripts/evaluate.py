"""Score a trained policy after every inner step: ``python scripts/evaluate.py runs/NAME``."""

import sys

from metarl.commands.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(evaluate(sys.argv[1:]))
