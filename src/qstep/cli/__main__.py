"""`python -m qstep.cli`."""

import sys

from qstep.cli import main

sys.exit(main())
