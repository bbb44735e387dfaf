"""How a command ends before its end: wrong input, one line and status 2; a signal to stop."""

import signal
import sys
from collections.abc import Callable

# Those by which schedulers (and people, by Ctrl-C) stop a run.
NAMES = ('SIGTERM', 'SIGUSR1', 'SIGINT')
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


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

    def __init__(self, message: str, number: int = 15) -> None:
        super().__init__(message)
        self.status = 128 + number


def some(names: list[str], most: int = 3) -> str:
    """The first of many names, and how many more there are: 'a, b, c and 7 more'."""
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')


def one_line_errors(run: Callable[[], int | None]) -> int:
    """Call `run` and return its exit status; InputError, Stopped and Ctrl-C become one line."""
    try:
        return run() or 0
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 128 + signal.SIGINT
