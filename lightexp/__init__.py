"""lightexp: combine methods of model compression and compare them on the file that would ship.

The functions of this module work in worker processes: importing lightexp and calling it changes nothing in the caller's
process, and loads neither TensorFlow nor NumPy.
"""

from __future__ import annotations

from importlib import import_module as _import_module

# Imported first, because the first import of a subpackage sets the attribute of its name, and so would replace the
# functions `search` and `report`. Both are empty. `from lightexp.search import study` still finds the subpackage.
_import_module("lightexp.report")
_import_module("lightexp.search")

from lightexp.api.ablate import ablate  # noqa: E402
from lightexp.api.records import records  # noqa: E402
from lightexp.api.report import report  # noqa: E402
from lightexp.api.run import run  # noqa: E402
from lightexp.api.search import search  # noqa: E402
from lightexp.core.errors import BadInput, RunFailed  # noqa: E402
from lightexp.core.version import __version__  # noqa: E402

__all__ = ["BadInput", "RunFailed", "__version__", "ablate", "records", "report", "run", "search"]


def __dir__() -> list[str]:
    return __all__
