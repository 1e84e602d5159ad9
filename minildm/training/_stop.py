"""Ctrl-C and SIGTERM while a training runs: it is to save its checkpoint before it ends."""

import signal
import sys
import threading
from contextlib import AbstractContextManager


class Stop(AbstractContextManager):
    """Inside, the first Ctrl-C or SIGTERM is only noted in `asked`; the second ends at once, as without this.

    Only signals that would end the program are looked after: not those with a handler of the user's own, nor those
    that are ignored; and only in the main thread, for Python allows no other to do so. Afterwards all is as before.
    """

    def __init__(self, wanted: bool = True):
        self.wanted, self.signal, self._before = wanted, None, {}

    @property
    def asked(self) -> bool:
        """Whether the training is to stop."""
        return self.signal is not None

    def __enter__(self) -> "Stop":
        if self.wanted and threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == default:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._put_back()

    def error(self, message: str, say: bool) -> BaseException:
        """What the signal comes to: to be raised once the checkpoint is saved. The message is said, or carried."""
        if self.signal == signal.SIGINT:
            return KeyboardInterrupt(message)
        if say:
            print(message, file=sys.stderr)
        return SystemExit(128 + signal.SIGTERM)  # also where another of several processes got the signal

    def _note(self, number, frame):
        self.signal = number
        self._put_back()

    def _put_back(self):
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)


def in_worker(number: int) -> None:
    """In a process that prepares batches: it ends when it is told to, and leaves Ctrl-C to the one that trains."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
