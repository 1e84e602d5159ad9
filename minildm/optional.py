"""What is imported only when it is used: packages that the networks do not need, and names that have moved."""

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

NO_WHEEL = {"stardist": (3, 14)}  # package -> the first Python for which there is none yet


def require(module: str, extra: str = "course") -> ModuleType:
    """Import an optional module by its dotted name.

    Raises ImportError with the line that installs it when its package is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        if sys.version_info >= NO_WHEEL.get(package, (99,)):
            newest = f"{NO_WHEEL[package][0]}.{NO_WHEEL[package][1] - 1}"
            raise ImportError(
                f'this needs the package "{package}", which cannot be installed for this Python '
                f"({sys.version_info[0]}.{sys.version_info[1]}) yet: use Python 3.11 to {newest}"
            ) from None
        raise ImportError(
            f'this needs the package "{package}", which is not installed: pip install "minildm[{extra}]"'
        ) from None


def moved(module: str, places: dict[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a module whose public names have moved: the old ones warn and work on.

    module: its `__name__`.  places: old name -> the dotted name that holds the same thing now. As in
    `__getattr__ = moved(__name__, {"to_pictures": "minildm.images.to_unit"})`
    """

    def __getattr__(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new_name = places[name].rpartition(".")
        warnings.warn(f"{module}.{name} is {places[name]} now", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(home), new_name)

    return __getattr__
