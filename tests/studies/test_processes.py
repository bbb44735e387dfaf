"""A tool as a child process: signals that stop it, its interpreter and its memory."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from cbam_det.studies import processes
from cbam_det.studies.processes import call_tool
from cbam_det.utils.exits import Stopped

# A tool that ends as it would have without the signal.
TOOL = """
import signal, sys, time
caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
print('ready', flush=True)
while not caught:
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ('tool', 'end', 'number'),
    [
        ('train', '', signal.SIGTERM),
        ('test', 'sys.exit(1)', signal.SIGTERM),
        ('train', '', signal.SIGHUP),  # the terminal is closed
        ('train', '', signal.SIGQUIT),
    ],
)
def test_signal_at_the_end_of_a_tool_stops_the_command(tool, end, number, tmp_path, monkeypatch):
    (tmp_path / f'{tool}.py').write_text(TOOL + end)
    monkeypatch.setattr(processes, 'tools_folder', lambda: tmp_path)
    log = tmp_path / f'{tool}.log'

    def send() -> None:
        while not (log.is_file() and 'ready' in log.read_text()):
            threading.Event().wait(0.02)
        os.kill(os.getpid(), number)

    previous = signal.signal(number, signal.SIG_DFL)  # `nohup` ignores SIGHUP
    sender = threading.Thread(target=send)
    sender.start()
    stopped = pytest.raises(Stopped, match='stopped by SIGTERM; the same command continues')
    with (tmp_path / 'lock').open('w') as lock, stopped:
        call_tool(tool, 'config.py', [], [], tmp_path, 0, lock.fileno())
    sender.join()
    signal.signal(number, previous)


def test_several_processes_run_with_the_interpreter_of_the_command(tmp_path, monkeypatch):
    (tmp_path / 'dist_test.sh').write_text('echo "$PYTHON"')
    monkeypatch.setattr(processes, 'tools_folder', lambda: tmp_path)
    monkeypatch.delenv('PYTHON', raising=False)
    with (tmp_path / 'lock').open('w') as lock:
        call_tool('test', 'config.py', [], [], tmp_path, 2, lock.fileno())
    assert (tmp_path / 'test.log').read_text() == f'{sys.executable}\n'


def test_tool_that_nothing_interrupts_gives_its_memory(tmp_path, monkeypatch):
    (tmp_path / 'test.py').write_text('')
    monkeypatch.setattr(processes, 'tools_folder', lambda: tmp_path)
    with (tmp_path / 'lock').open('w') as lock:
        assert call_tool('test', 'config.py', [], [], tmp_path, 0, lock.fileno()) > 0
