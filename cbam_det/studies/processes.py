"""Run the tools as child processes: write their log, show progress, forward signals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.status import Status
from rich.text import Text

from ..utils.errors import InputError
from ..utils.exits import SIGNALS, Stopped, explain_ctrl_c
from ..utils.installation import tools_folder

# The line with which MMEngine logs the progress of a loop.
PROGRESS = re.compile(r'\w+\((?:train|val|test)\).*eta: .*?(?=  )')


def call_tool(
    name: str,
    config: str,
    positional: list[str],
    options: list[str],
    folder: Path,
    gpus: int,
    lock: int,
) -> int:
    """Run a tool to its end; returns its peak memory in MiB, the largest of its processes.

    Raises:
        InputError: the tool failed.
        Stopped: a signal stopped the tool, after it had written its checkpoint.
    """
    tools = tools_folder()
    if gpus > 1:
        command = ['bash', str(tools / f'dist_{name}.sh'), config, *positional, str(gpus)]
    else:
        command = [sys.executable, str(tools / f'{name}.py'), config, *positional]
    log = folder / f'{name}.log'
    start = log.stat().st_size if log.is_file() else 0
    with log.open('a', encoding='utf-8') as stream:
        # A training stops by itself on a signal and needs its workers until then. For other tools,
        # the signal goes to the whole process group.
        graceful = name == 'train'
        progress = Status(LastLine(log, start), refresh_per_second=2)
        received: list[int] = []
        with _forwarded_signals(graceful, received) as set_child, progress:
            child = subprocess.Popen(
                [*command, *options],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                pass_fds=[lock],
                env={**os.environ, 'PYTHON': sys.executable},  # for the shell scripts
            )
            set_child(child.pid)
            _, status, usage = os.wait4(child.pid, 0)  # like wait(), and its memory use
    child.returncode = os.waitstatus_to_exitcode(status)
    number = child.returncode - 128 if child.returncode > 0 else -child.returncode
    # It was at its end; or a second Ctrl-C ended a test's handling of the first with status 1.
    if received and (not number or (number not in SIGNALS and not graceful)):
        number = received[0]
    if number in SIGNALS:
        raise Stopped(
            f'stopped by {signal.Signals(number).name}; the same command continues', number
        )
    if child.returncode:
        lines = log.read_bytes()[start:].decode(errors='replace').splitlines()
        errors = [line for line in lines if line.startswith('error: ')]
        reason = errors[-1].removeprefix('error: ') if errors else f'exit status {child.returncode}'
        raise InputError(f'{name} failed ({reason}); see {log}')
    return usage.ru_maxrss // 1024


class LastLine:
    """Progress of a tool for rich: the last line with an eta in its log, after the byte `start`."""

    def __init__(self, log: Path, start: int = 0) -> None:
        self.log, self.start = log, start

    def __rich__(self) -> Text:
        matches = []
        with contextlib.suppress(OSError), self.log.open('rb') as stream:
            stream.seek(max(self.start, stream.seek(0, os.SEEK_END) - 65536))
            matches = PROGRESS.findall(stream.read().decode(errors='replace'))
        text = ' '.join(matches[-1].split()) if matches else 'starting'
        return Text(f'{text}, {self.log}', no_wrap=True, overflow='ellipsis')


@contextmanager
def _forwarded_signals(graceful: bool, received: list[int]) -> Iterator[Callable[[int], None]]:
    """Forward the signals of this process to a child process in its own session.

    SIGHUP and SIGQUIT become SIGTERM, at which a training writes a checkpoint. Signals that this
    process ignores (`nohup`, a job in the background) stay ignored.

    Args:
        graceful: the child stops by itself and writes a checkpoint; if False, the signals go to its
            whole process group.
        received: gets the numbers of the signals.

    Yields:
        A function that takes the child's process id; signals that arrived before are then sent.
    """
    send = os.kill if graceful else os.killpg
    children: list[int] = []
    pending: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if number not in SIGNALS:
            number = signal.SIGTERM
        if number == signal.SIGINT and graceful and number not in received:
            explain_ctrl_c()
        received.append(number)
        if not children:
            pending.append(number)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                send(pid, number)

    def set_child(pid: int) -> None:
        children.append(pid)
        while pending:
            send(pid, pending.pop(0))

    names = ('SIGHUP', 'SIGQUIT')  # from the terminal, which does not signal the child's session
    numbers = [*SIGNALS, *(getattr(signal, name) for name in names if hasattr(signal, name))]
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, forward) for number in handled}
    try:
        yield set_child
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
