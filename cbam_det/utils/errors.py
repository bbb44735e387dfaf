"""What commands print, and how one ends before its end: wrong input, or a signal to stop."""

import contextlib
import io
import os
import signal
import sys
import unicodedata
from collections.abc import Callable
from types import TracebackType
from typing import Any

# Those by which schedulers (and people, by Ctrl-C) stop a run.
NAMES = ('SIGTERM', 'SIGUSR1', 'SIGINT')
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
CTRL_C = 'Ctrl-C: stops after this iteration (or validation) with a checkpoint; again: at once'


class InputError(ValueError):
    """What a user gave does not fit; the message names the value, the place and the remedy.

    It is one printable line, whatever names it quotes.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(' '.join(str(message).splitlines())))


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


def printable(text: str) -> str:
    """`text` with escapes for control characters, by which a file name could change the colours or
    the title of a terminal, and for bytes of a name that are no UTF-8; line ends and tabs stay.
    """
    return ''.join(
        char.encode('unicode_escape').decode()
        if char not in '\n\t' and unicodedata.category(char) in ('Cc', 'Cs')
        else char
        for char in text
    )


class _PipeOutput(io.FileIO):
    """Standard output that goes on in silence where nobody reads it any more (`| head`)."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            with open(os.devnull, 'wb') as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def prepare_output() -> None:
    """Let this process print whatever names people use, to whoever reads it.

    Characters that the terminal's encoding lacks are printed as escapes, and a pipe that is closed
    ends nothing. An output that a test or a notebook put in the terminal's place is left alone.
    """
    output = sys.stdout
    if output is not sys.__stdout__ or not isinstance(output, io.TextIOWrapper):
        return
    output.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_PipeOutput(output.fileno(), 'wb', closefd=False)),
        encoding=output.encoding,
        errors='backslashreplace',
        line_buffering=output.line_buffering,
    )


def one_line_errors(run: Callable[[], int | None]) -> int:
    """Call `run` and return its exit status; what ends it early becomes one line.

    Raises:
        KeyboardInterrupt: by Ctrl-C, without its traceback, so that the process ends by SIGINT
            itself: a shell's loop goes on after any other end.
    """
    prepare_output()
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
        print(printable(line), file=sys.stderr, flush=True)


def explain_ctrl_c() -> None:
    """Tell what the first Ctrl-C does; by os.write, as a handler may come in a print's middle."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{CTRL_C}\n'.encode())


def _silent_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
