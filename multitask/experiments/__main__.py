"""The whole paper: python -m multitask.experiments --preset paper."""

import sys

from .grid import main

sys.exit(main())
