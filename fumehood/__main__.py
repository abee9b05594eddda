"""`python -m fumehood` is `fumehood`."""

import sys

from fumehood.cli.main import main

sys.exit(main())
