"""A call of a learner's function from which the check comes back, whatever the function does."""

import copy
import ctypes
import inspect
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

from ._outcome import CheckFailed, NotWritten

Function = Callable[..., Any]


def call(
    answer: Function,
    case: tuple,
    deadline: float,
    run: Function | None = None,
    own: Sequence[Function] = (),
    errors: Mapping[str, str] | None = None,
) -> Any:
    """The answer's result for a case, of which it gets a copy.

    deadline: of `time.monotonic()`, when to give up.  run: calls the answer and returns what is compared, as
    `run(answer, *case)`.  own: functions that the learner is to write, so that they may not be used.
    errors: {part of an error's message: its likely reason}, besides those that everybody meets.
    Raises NotWritten for a stub, and CheckFailed for what a function may not do: fail, take too long, change its
    arguments, or leave the work to `own`.
    """
    given, used = tuple(copied(one) for one in case), []
    try:
        with _time_limit(deadline - time.monotonic()), _watching(own, used):
            output = answer(*given) if run is None else run(answer, *given)
    except NotImplementedError as stub:
        if any(words in str(stub) for words in _TORCH_SAYS):
            raise CheckFailed(f"your function raised {_told(stub, answer)}{_why(stub, errors or {})}") from None
        raise NotWritten(str(stub)) from None
    except _TooLong:
        raise CheckFailed("your function was still running when its time was over: is there an endless loop?") from None
    except (Exception, SystemExit) as error:
        raise CheckFailed(f"your function raised {_told(error, answer)}{_why(error, errors or {})}") from None
    if output is ... or output is NotImplemented:
        raise NotWritten
    if used:
        raise CheckFailed(f"your function leaves the work to the package's own {used[0]}: write it yourself")
    for k, (after, before) in enumerate(zip(given, case, strict=True), 1):
        if not _same(after, before):
            raise CheckFailed(
                f"your function changes its argument {k} in place, and the caller still needs that; make a new one, "
                "as x = x + 1 does and x += 1 does not"
            )
    return output


def look_at(answer: Any, own: Sequence[Function] = ()) -> None:
    """Refuse, before the first call, what is no function of the learner's own: raises NotWritten or CheckFailed."""
    if answer is ... or answer is NotImplemented or answer is NotImplementedError:
        raise NotWritten
    if not callable(answer):
        raise CheckFailed(
            f"expected your function itself, got {type(answer).__name__}: hand it over by its name, without calling it"
        )
    plain = _plain(answer)
    if plain in [_plain(one) for one in own] or (getattr(plain, "__module__", None) or "").startswith("minildm."):
        raise CheckFailed("that is the package's own function: write yours")


def copied(argument: Any) -> Any:
    """A copy of an argument that shares nothing with it."""
    if isinstance(argument, Tensor):
        return argument.clone()
    return copy.deepcopy(argument) if isinstance(argument, np.ndarray | nn.Module | list | tuple | dict) else argument


class _TooLong(BaseException):
    """Not an Exception, so that `except Exception` in a learner's loop does not keep it."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooLong in the block when the time is over, and again each tenth of a second for who catches it."""
    here = threading.current_thread() is threading.main_thread()
    limit = _by_signal if here and hasattr(signal, "setitimer") else _by_thread
    with limit(max(seconds, 0.01), 0.1):
        yield


@contextmanager
def _by_signal(seconds, again):
    """An alarm of the system; it interrupts waiting, too."""
    armed = True

    def ring(*_):
        if armed:
            raise _TooLong

    handler, timer = signal.signal(signal.SIGALRM, ring), signal.setitimer(signal.ITIMER_REAL, seconds, again)
    try:
        try:
            yield
        finally:
            armed = False
    finally:  # also where it rang in the line above
        armed = False
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def _by_thread(seconds, again):
    """A second thread that raises in this one: on Windows, and in threads other than the main one."""
    done, lock, target = threading.Event(), threading.Lock(), ctypes.c_ulong(threading.get_ident())
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch():
        wait = seconds
        while not done.wait(wait):
            with lock:
                if not done.is_set():
                    throw(target, ctypes.py_object(_TooLong))
            wait = again

    def stop():
        while True:
            with suppress(_TooLong):
                with lock:
                    done.set()
                for _ in range(100):  # what was thrown before, and has not arrived, does so here
                    pass
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            stop()
    finally:  # also where it arrived in the line above
        stop()


@contextmanager
def _watching(own, used):
    """Note in `used` which of the functions `own` is called in the block, by whatever name."""
    names = {getattr(_plain(one), "__code__", one): one.__qualname__ for one in own}
    if not names:
        yield
        return

    def note(frame, event, callee):
        called = frame.f_code if event == "call" else callee
        if event in ("call", "c_call") and called in names:
            used.append(names[called])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def _plain(function):
    """A function without partial, binding and decorators."""
    function = getattr(function, "func", function)
    return inspect.unwrap(getattr(function, "__func__", function))


def _same(one, other):
    """Whether an argument still holds what it held."""
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one != one)).all())
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool(((one == other) | (one != one)).all())
    if isinstance(one, nn.Module):
        return _same(list(one.state_dict().values()), list(other.state_dict().values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return True


def _told(error, answer):
    """An error with the learner's own line in which it arose."""
    code = getattr(_plain(answer), "__code__", None)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if code and one.filename == code.co_filename]
    at = f"\n  in your line {frames[-1].lineno}: {frames[-1].line}".rstrip(": ") if frames else ""
    return f"{type(error).__name__}: {error}{at}"


# Parts of a NotImplementedError of torch's: an error, not a stub.
_TORCH_SAYS = ("not implemented for '", "Module [Module", "the `-` operator")

_MANY = "that are several numbers, and int() and math take a single one: use x.sqrt(), x.cos(), np.exp(x) and so on"
_COMMON = {
    "must be Tensor, not numpy.ndarray": "the arguments are NumPy arrays here: use np.exp, np.sqrt, x**0.5 and so on",
    "must be Tensor, not float": "that is a plain number: use math.exp, math.sqrt or x**0.5 for it",
    "must be Tensor, not int": "that is a plain number: use math.exp, math.sqrt or x**0.5 for it",
    "only one element tensors": _MANY,
    "cannot be converted to Scalar": _MANY,
    "only 0-dimensional arrays": _MANY,
    "only length-1 arrays": _MANY,
    "positional argument": "keep the arguments of the stub, all of them and in their order",
    "same dtype": "the arguments are in float64: make new tensors in their dtype, as torch.zeros_like does",
    "expected scalar type": "the arguments are in float64: make new tensors in their dtype, as torch.zeros_like does",
    "must match the size": "two shapes do not go together: print them, and look where an axis is missing",
    "could not be broadcast": "two shapes do not go together: print them, and look where an axis is missing",
    "cannot be multiplied": "two shapes do not go together: print them, and look which axis is to be summed over",
    "is not callable": "something is called that is no function: if yours is to make one, return that function itself",
    "singular": "not every matrix has an inverse: look for a form that does without this one",
    "division by zero": "is there a case in which nothing is left to divide by?",
    "tensors used as indices": "indices are whole numbers: draw them with torch.randint, or call .long()",
    "not implemented for 'Long'": "these are whole numbers, and decimal numbers are needed: call .float()",
    "Module [Module": "a list of blocks is not a block itself: go through it, for block in the_list",
    "interpreted as an integer": "whole numbers are needed here: divide with //",
    "'NoneType'": "something is None there: an argument that may be, by its docstring, or a result without return",
    "Boolean value of Tensor": "a condition on many numbers at once: ask `is None`, or decide for each by torch.where",
    "inhomogeneous shape": "a tuple stands where an array belongs: does something that you call return two things?",
    "not implemented for": "PyTorch cannot do this with numbers of this dtype: & and | are for booleans, for example",
    "truth value of an array": "`and`, `or` and `not` take a single truth value: for arrays use &, | and ~",
}


def _why(error, errors):
    """The likely reason of an error: one of the exercise's own, or of those that everybody meets."""
    reason = next((reason for known, reason in [*errors.items(), *_COMMON.items()] if known in str(error)), "")
    return f"\nlikely: {reason}" if reason else ""
