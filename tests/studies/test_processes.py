"""A tool as a child process: a signal that comes at its end stops the command too."""

from __future__ import annotations

import os
import signal
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


@pytest.mark.parametrize(('tool', 'end'), [('train', ''), ('test', 'sys.exit(1)')])
def test_signal_at_the_end_of_a_tool_stops_the_command(tool, end, tmp_path, monkeypatch):
    (tmp_path / f'{tool}.py').write_text(TOOL + end)
    monkeypatch.setattr(processes, 'tools_folder', lambda: tmp_path)
    log = tmp_path / f'{tool}.log'

    def send() -> None:
        while not (log.is_file() and 'ready' in log.read_text()):
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    stopped = pytest.raises(Stopped, match='stopped by SIGTERM; the same command continues')
    with (tmp_path / 'lock').open('w') as lock, stopped:
        call_tool(tool, 'config.py', [], [], tmp_path, 0, lock.fileno())
    sender.join()


def test_tool_that_nothing_interrupts_gives_its_memory(tmp_path, monkeypatch):
    (tmp_path / 'test.py').write_text('')
    monkeypatch.setattr(processes, 'tools_folder', lambda: tmp_path)
    with (tmp_path / 'lock').open('w') as lock:
        assert call_tool('test', 'config.py', [], [], tmp_path, 0, lock.fileno()) > 0
