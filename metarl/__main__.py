"""``python -m metarl``."""

import sys

from metarl.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
