"""Meta-train a policy: ``python scripts/train.py --config configs/point_navigation.yaml``."""

import sys

from metarl.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
