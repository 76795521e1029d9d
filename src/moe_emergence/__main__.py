"""`python -m moe_emergence`, also for torchrun: the command line."""

import sys

from moe_emergence.cli import main

sys.exit(main())
