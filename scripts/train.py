"""Meta-train a policy: ``python scripts/train.py --config configs/point_navigation.yaml``."""

import sys

from metarl.commands.train import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
