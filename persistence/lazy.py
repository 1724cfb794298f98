"""Public names of a package that are loaded when they are first used (PEP 562).

So a program loads only the parts that it uses: a subscriber no database, a runtime no client.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, *modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that lists its public names in `__all__`.

    Args:
        package: its `__name__`.
        modules: where the names are, relative to the package. A name is looked for in this order, so a module stands
            behind those that it imports.
    """
    namespace = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name in namespace["__all__"]:
            for module in modules:
                loaded = import_module(f"{package}.{module}")
                if hasattr(loaded, name):
                    namespace[name] = value = getattr(loaded, name)  # the next use does not come here
                    return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*namespace, *namespace["__all__"]})

    return load, names
