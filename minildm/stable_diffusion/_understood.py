"""Configuration files of which nothing is read past: each key is used, known to be harmless, or refused."""

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

_KINDS = {bool: "true or false", int: "one whole number from 1", float: "a number above 0", str: "a name"}
_LISTS = {"attention_head_dim": [8], "num_attention_heads": [8], "trained_betas": [1e-4]}  # may be such lists, too


def refuse(file: Path, key: str, value: object, expected: str) -> NoReturn:
    """Raise the ValueError for a key that asks for what is not supported."""
    raise ValueError(f"{file}: {key} is {value!r}, which minildm does not support: expected {expected}")


def complain(message: str) -> None:
    """Warn at the line outside of minildm that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "minildm":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def understood(
    config: Mapping,
    file: Path,
    fixed: Mapping,
    defaults: Mapping,
    silent: Iterable[str] = (),
    *,
    strict: bool = True,
) -> dict:
    """A configuration with its defaults, once every key that could mean something else is known to be harmless.

    fixed: keys and the one value that is supported.  defaults: keys that are used, and what they are where a file does
        not say.  silent: keys that may say anything.
    strict: raise ValueError for any other key, unless it is null or false; otherwise warn of it.
    """
    known = fixed.keys() | defaults.keys() | set(silent)
    for key, value in config.items():
        if key in fixed and value != fixed[key]:
            refuse(file, key, value, repr(fixed[key]) if isinstance(fixed[key], str) else json.dumps(fixed[key]))
        if key not in known and not key.startswith("_") and value not in (None, False):
            if strict:
                refuse(file, key, value, "null or false")
            complain(f"{file}: {key} is {value!r}, which minildm does not know and leaves out")
    return filled(config, file, defaults)


def filled(config: Mapping, file: Path, defaults: Mapping) -> dict:
    """What a file says under the keys of the defaults, each of its default's kind, and the defaults for the rest."""
    found = dict(defaults)
    for key in defaults.keys() & config.keys():
        default, value = defaults[key], config[key]
        if not fits(value, default) and not (key in _LISTS and fits(value, _LISTS[key])):
            kind = type(1 if default is None else default[0] if isinstance(default, list) else default)
            refuse(file, key, value, f"a list, each {_KINDS[kind]}" if isinstance(default, list) else _KINDS[kind])
        found[key] = value
    return found


def fits(value: object, default: object) -> bool:
    """Whether a value is of its default's kind: sizes are positive, and what is None by default is one, or None."""
    if isinstance(default, list):
        return isinstance(value, list) and len(value) > 0 and all(fits(one, default[0]) for one in value)
    if default is None:
        return value is None or fits(value, 1)
    if isinstance(default, bool | str):
        return type(value) is type(default)
    if isinstance(value, bool) or not isinstance(value, int | type(default)):
        return False
    return value > 0 or value == default
