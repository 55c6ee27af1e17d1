"""`python -m patches`: see patches/cli.py."""

import sys

from patches.cli import main

if __name__ == "__main__":
    sys.exit(main())
