"""The tools as processes of a study: their log, their progress, the signals that are passed on."""

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

from ..utils.environment import tools_folder
from ..utils.errors import SIGNALS, InputError, Stopped, explain_ctrl_c

# Where a loop of MMEngine is, as it logs it.
PROGRESS = re.compile(r'\w+\((?:train|val|test)\).*eta: .*?(?=  )')


def call_tool(
    name: str,
    config: str,
    first: list[str],
    last: list[str],
    folder: Path,
    gpus: int,
    lock: int,
) -> int:
    """Run a tool to its end; the most MiB that one of its processes, or this one, held.

    Raises:
        InputError: it did not end well.
        Stopped: by a signal, which it was given to write its checkpoint.
    """
    tools = tools_folder()
    if gpus > 1:
        shell = ['bash', str(tools / f'dist_{name}.sh'), config, *first, str(gpus)]
    else:
        shell = [sys.executable, str(tools / f'{name}.py'), config, *first]
    log = folder / f'{name}.log'
    begin = log.stat().st_size if log.is_file() else 0
    with log.open('a', encoding='utf-8') as stream:
        # Our trainings stop by themselves and need their workers until then; others are all told.
        listens = name == 'train'
        shown = Status(LastLine(log, begin), refresh_per_second=2)
        with _passed_on(listens) as watch, shown:
            child = subprocess.Popen(
                [*shell, *last],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                pass_fds=[lock],
            )
            watch(child.pid)
            _, status, usage = os.wait4(child.pid, 0)  # as wait(), and what this child alone used
    child.returncode = os.waitstatus_to_exitcode(status)
    number = child.returncode - 128 if child.returncode > 0 else -child.returncode
    if number in SIGNALS:
        raise Stopped(f'stopped by {signal.Signals(number).name}; the same command goes on', number)
    if child.returncode:
        lines = log.read_bytes()[begin:].decode(errors='replace').splitlines()
        errors = [line for line in lines if line.startswith('error: ')]
        said = errors[-1].removeprefix('error: ') if errors else f'exit status {child.returncode}'
        raise InputError(f'tools/{name}.py did not end well ({said}); see {log}')
    return usage.ru_maxrss // 1024


class LastLine:
    """Rich's view of a tool's progress, in one line: the last in its log, from the byte `begin`
    on, that tells an eta.
    """

    def __init__(self, log: Path, begin: int = 0) -> None:
        self.log, self.begin = log, begin

    def __rich__(self) -> Text:
        found = []
        with contextlib.suppress(OSError), self.log.open('rb') as stream:
            stream.seek(max(self.begin, stream.seek(0, os.SEEK_END) - 65536))
            found = PROGRESS.findall(stream.read().decode(errors='replace'))
        last = ' '.join(found[-1].split()) if found else 'begins'
        return Text(f'{last}, {self.log}', no_wrap=True, overflow='ellipsis')


@contextmanager
def _passed_on(listens: bool) -> Iterator[Callable[[int], None]]:
    """Give signals to a process, which has a session of its own, instead of obeying them.

    What this process ignores (`nohup`, a script's background) it goes on ignoring.

    Args:
        listens: the process stops by itself with a checkpoint; else its children are told too.

    Yields:
        What to call with its id; signals that came before are given to it then.
    """
    send = os.kill if listens else os.killpg
    child: list[int] = []
    early: list[int] = []
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and listens and not told:
            told.append(number)
            explain_ctrl_c()
        if not child:
            early.append(number)
        for one in child:
            with contextlib.suppress(ProcessLookupError):
                send(one, number)

    def watch(pid: int) -> None:
        child.append(pid)
        while early:
            send(pid, early.pop(0))

    names = ('SIGHUP', 'SIGQUIT')  # of a terminal, of which the process has none
    numbers = [*SIGNALS, *(getattr(signal, name) for name in names if hasattr(signal, name))]
    obeyed = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in obeyed}
    try:
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
