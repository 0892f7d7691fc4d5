"""Run `lightexp` as `python -m lightexp.cli`."""

import sys

from lightexp.cli.main import main

sys.exit(main())
