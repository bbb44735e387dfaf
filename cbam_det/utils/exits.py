"""How a command ends: by one line for wrong input, by a signal, or at a closed pipe."""

import atexit
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .errors import InputError, print_stderr

# The signals with which schedulers, and users by Ctrl-C, stop a run.
SIGNALS = [
    getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT') if hasattr(signal, name)
]
# Faults of a disk or a path, not of a program. Errors with other numbers keep their traceback.
DISK_REMEDIES = {
    errno.ENOSPC: 'free some space, or give another folder',
    errno.EDQUOT: 'free some space, or give another folder',
    errno.EROFS: 'give another folder',
    errno.EACCES: 'give your user permission for it',
    errno.EPERM: 'give your user permission for it',
    errno.ENAMETOOLONG: 'give a shorter path',
    errno.ENOTDIR: 'give a folder',
    errno.EIO: 'fix the disk or its connection',
}
CTRL_C = (
    'Ctrl-C: stops after this iteration (or validation) with a checkpoint; again: stops at once'
)


class Stopped(Exception):
    """A signal stopped the run; the message says how to continue it.

    Attributes:
        status: exit status of the process, 128 plus the number of the signal, as in shells.
    """

    def __init__(self, message: str, signal_number: int = 15) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


class _PipeOutput(io.FileIO):
    """Standard output that silently drops its text once nobody reads it (`| head`)."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            with open(os.devnull, 'wb') as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def prepare_output() -> None:
    """Make printing safe for any file name, any terminal and a closed pipe.

    Characters that the terminal's encoding lacks are printed as escapes, and a closed pipe does not
    end the process. If a test or a notebook has replaced `sys.stdout`, nothing is changed.
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
    """Call `run` and return its exit status; if it ends early, print one line that says why.

    Raises:
        KeyboardInterrupt: after Ctrl-C, without a traceback, so that SIGINT itself ends the
            process. After any other end, a loop of the shell would continue.
    """
    prepare_output()
    atexit.unregister(_end_by_sigint)
    atexit.register(_end_by_sigint)
    try:
        return run() or 0
    except InputError as error:
        print_stderr(f'error: {error}')
        return 2
    except OSError as error:
        if error.errno not in DISK_REMEDIES:
            raise
        place = error.filename or 'a file'
        print_stderr(f'error: {place}: {error.strerror}; {DISK_REMEDIES[error.errno]}')
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
    """Make a script that does not catch `InputError` or `Stopped` end like our tools.

    They print one line and exit with status 2, or 128 plus the number of the signal. In Python's
    prompt and in notebooks nothing changes.
    """
    if not isinstance(sys.excepthook, _OneLineHook) and not hasattr(sys, 'ps1'):
        sys.excepthook = _OneLineHook(sys.excepthook)


class _OneLineHook:
    """A `sys.excepthook` that passes other errors on to the previous hook."""

    def __init__(self, previous: Callable) -> None:
        self.previous = previous

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, InputError):
            print_stderr(f'error: {error}')
            sys.exit(2)  # Python uses the status of a sys.exit() in its excepthook
        if isinstance(error, Stopped):
            print_stderr(str(error))
            sys.exit(error.status)
        self.previous(kind, error, trace)


def explain_ctrl_c() -> None:
    """Print what Ctrl-C does, by os.write: a signal handler may interrupt another print."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{CTRL_C}\n'.encode())


def _silent_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _interrupts.append(error)
    else:
        sys.__excepthook__(kind, error, trace)


_interrupts: list[BaseException] = []


def _end_by_sigint() -> None:
    """End an interrupted process by SIGINT, as Python does.

    Python itself does not if a library runs code from a text at exit.
    """
    if _interrupts:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
