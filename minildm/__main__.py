"""`python -m minildm` is the same as `minildm`."""

import sys

from minildm.cli import main

if __name__ == "__main__":
    sys.exit(main())
