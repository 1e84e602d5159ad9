"""Packages that the networks do not need, imported where they are used, with an error that says how to get them."""

import importlib
import sys
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
