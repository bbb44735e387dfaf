"""How a command ends before its end: wrong input, one line and status 2; a signal to stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType

# Those by which schedulers (and people, by Ctrl-C) stop a run.
NAMES = ('SIGTERM', 'SIGUSR1', 'SIGINT')
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
CTRL_C = 'Ctrl-C: stops after this iteration (or validation) with a checkpoint; again: at once'


class InputError(ValueError):
    """What a user gave does not fit; the message names the value, the place and the remedy.

    It is one line, whatever names it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(' '.join(str(message).splitlines()))


class Stopped(Exception):
    """The run was told to stop and did; the message tells how to go on.

    Attributes:
        status: of the process, 128 and the signal's number, as shells have it.
    """

    def __init__(self, message: str, signal_number: int = 15) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def first_few(names: list[str], limit: int = 3) -> str:
    """The first of many names, and how many more there are: 'a, b, c and 7 more'."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def one_line_errors(run: Callable[[], int | None]) -> int:
    """Call `run` and return its exit status; what ends it early becomes one line.

    Raises:
        KeyboardInterrupt: by Ctrl-C, without its traceback, so that the process ends by SIGINT
            itself: a shell's loop goes on after any other end.
    """
    try:
        return run() or 0
    except InputError as error:
        print_stderr(f'error: {error}')
        return 2
    except Stopped as stopped:
        print_stderr(str(stopped))
        if stopped.status != 128 + signal.SIGINT:
            return stopped.status
    except KeyboardInterrupt:
        print_stderr('interrupted')
    sys.excepthook = _silent_interrupt
    raise KeyboardInterrupt


def end_by_one_line() -> None:
    """Let a script that does not catch `InputError` or `Stopped` end as our tools do: by one line,
    with status 2, or 128 and the signal's number. In Python's prompt and notebooks nothing changes.
    """
    if not isinstance(sys.excepthook, _OneLineHook) and not hasattr(sys, 'ps1'):
        sys.excepthook = _OneLineHook(sys.excepthook)


class _OneLineHook:
    """A `sys.excepthook`; what is not for it goes to the one before."""

    def __init__(self, previous: Callable) -> None:
        self.previous = previous

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, InputError):
            print_stderr(f'error: {error}')
            sys.exit(2)  # python takes the status of an exit in its excepthook
        if isinstance(error, Stopped):
            print_stderr(str(error))
            sys.exit(error.status)
        self.previous(kind, error, trace)


def print_stderr(line: str) -> None:
    """Print to stderr, if anybody listens: Ctrl-C ends a `| tee` of the same terminal, too."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def explain_ctrl_c() -> None:
    """Tell what the first Ctrl-C does; by os.write, as a handler may come in a print's middle."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{CTRL_C}\n'.encode())


def _silent_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
