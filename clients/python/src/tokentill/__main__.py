"""`python -m tokentill`: the command line, where another program owns the name `tokentill`."""

import sys

from tokentill.cli import main

sys.exit(main())
