"""Packages that the networks do not need, imported where they are used, with an error that says how to get them."""

import importlib
from types import ModuleType


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
        raise ImportError(
            f'this needs the package "{package}", which is not installed: pip install "minildm[{extra}]"'
        ) from None
