"""`python -m lightexp.cli` is `lightexp`."""

import sys

from lightexp.cli.main import main

sys.exit(main())
