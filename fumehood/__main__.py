"""`python -m fumehood` is `fumehood`."""

import sys

from fumehood.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
