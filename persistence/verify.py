"""Verifying a file without a runtime: `verify(path)`. A door; the room is `persistence/sqlite/verify.py`.

The package has the function under the name of this module, so the module can be called too: whichever of the two a
program has imported first, `commitcast.persistence.verify(path)` means the same.
"""

import sys
from types import ModuleType
from typing import Any

from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.store import Report

__all__ = ["Report", "verify"]


class _Door(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return verify(*args, **kwargs)


sys.modules[__name__].__class__ = _Door
