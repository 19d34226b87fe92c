"""`python -m dkv`: the same as the command `dkv`."""

import sys

from dkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
