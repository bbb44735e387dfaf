"""Trainings in processes of their own that are killed or stopped by signals, and go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cbam_det.utils.exits import CTRL_C

from ..conftest import CONFIG, QUICK, ROOT, free_port
from .tiny_run import load

pytestmark = pytest.mark.usefixtures('tiny_runs')
# A training whose checkpoints take two seconds to write, in twenty pieces.
SLOW_DISK = """
import sys, time
from mmengine.fileio import LocalBackend

def put(self, data, path):
    size = len(data) // 20 + 1
    with open(path, 'wb') as file:
        for start in range(0, len(data), size):
            file.write(data[start : start + size])
            file.flush()
            time.sleep(0.1)

LocalBackend.put = put
from cbam_det_tools.train import main

sys.exit(main())
"""


def _listen() -> None:
    """What these tests' own start ignores (`nohup`, a script's background), a run need not."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Training:
    """`tools/train.py` in a process group of its own, its output in a file."""

    def __init__(
        self, folder: Path, *options: str, slow_disk: bool = False, processes: int = 1
    ) -> None:
        self.log = folder / f'{len(list(folder.glob("*.log")))}.log'
        program = ['-c', SLOW_DISK] if slow_disk else [str(ROOT / 'tools/train.py')]
        command = [sys.executable, *program, str(CONFIG)]
        if processes > 1:
            command = [str(ROOT / 'tools/dist_train.sh'), str(CONFIG), str(processes)]
        with self.log.open('w') as stream:
            self.process = subprocess.Popen(
                [*command, *options],
                cwd=folder,
                env={**os.environ, 'PYTHON': sys.executable, 'PORT': str(free_port())},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=_listen,
            )

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 300
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def output(self) -> str:
        return self.log.read_text()


def processes_in(folder: Path) -> dict[int, str]:
    """The commands of the processes that work in a folder, by their ids."""
    processes = {}
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has ended
            if Path(os.readlink(process / 'cwd')) == folder:
                command = (process / 'cmdline').read_text().replace('\0', ' ')
                processes[int(process.name)] = command
    return processes


def options_of(work: str, digits: Path, epochs: int, *more: str) -> tuple[str, ...]:
    workers = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
    quick = (*QUICK, *workers, f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=4')
    return ('--work-dir', work, '--data-root', str(digits), '--resume', '--cfg-options', *quick)


@pytest.mark.slow
def test_training_killed_at_twenty_moments_ends_with_the_weights_of_the_uninterrupted_one(
    digits, tmp_path
):
    epochs = 12
    whole = Training(tmp_path, *options_of('whole', digits, epochs))
    assert whole.process.wait(600) == 0, whole.output()
    draw = np.random.default_rng(0)
    in_writing, work = 0, tmp_path / 'killed'
    for number in range(20):
        since = ('Checkpoints will be saved', 'Saving checkpoint at')[draw.integers(2)]
        moment = draw.uniform(0, 3)
        run = Training(tmp_path, *options_of('killed', digits, epochs), slow_disk=True)
        run.wait_for(since)
        time.sleep(moment)
        assert run.process.poll() is None, 'it ended before it was killed'
        run.process.kill()
        run.process.wait(60)
        parts = sorted(path.name for path in work.glob('*.pth.part'))
        in_writing += bool(parts)
        done = sorted(int(path.stem.split('_')[1]) for path in work.glob('epoch_*.pth'))
        print(
            f'kill {number + 1}, {moment:.2f} s after {since!r}: done {done[-1:]}, cut off {parts}'
        )
        assert done == list(range(1, len(done) + 1))
        for path in work.glob('*.pth'):
            assert load(path)['state_dict']
        for path in work.glob('*.part'):
            path.is_file() and path.unlink()  # so that the next kill's is told from it
    assert in_writing >= 3
    last = Training(tmp_path, *options_of('killed', digits, epochs))
    assert last.process.wait(600) == 0, last.output()
    name = f'epoch_{epochs}.pth'
    expected, resumed = (load(tmp_path / run / name)['state_dict'] for run in ('whole', 'killed'))
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_training_ends_it_cleanly_and_it_goes_on(digits, tmp_path):
    run = Training(tmp_path, *options_of('work', digits, 2))
    run.wait_for('Epoch(train) [1][1/3]')
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.process.wait(60) == 143, run.output()
    assert run.output().splitlines()[-1].startswith('stopped by SIGTERM after iteration')
    assert 'Traceback' not in run.output() and 'is killed by signal' not in run.output()
    again = Training(tmp_path, *options_of('work', digits, 2))
    assert again.process.wait(300) == 0, again.output()
    assert 'epoch 1 resumes after' in again.output()
    assert load(tmp_path / 'work/epoch_2.pth')['meta']['iter'] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'times', 'to_all'),
    [
        (signal.SIGTERM, 1, True),
        (signal.SIGUSR1, 1, True),
        (signal.SIGINT, 1, False),
        (signal.SIGTERM, 2, False),
        (signal.SIGUSR1, 1, False),
        (signal.SIGHUP, 1, False),
    ],
    ids=['SIGTERM to all', 'SIGUSR1 to all', 'Ctrl-C', 'SIGTERM twice', 'SIGUSR1', 'SIGHUP'],
)
def test_signal_to_a_launcher_leaves_one_checkpoint_of_both_processes_and_its_status(
    number, times, to_all, digits, tmp_path, monkeypatch
):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    options = (*options_of('work', digits, 2), 'train_dataloader.batch_size=2')
    run = Training(tmp_path, *options, processes=2)
    run.wait_for('Epoch(train) [1][1/3]')
    assert len(processes_in(tmp_path)) > 3
    for _ in range(times):
        os.killpg(run.process.pid, number)
        time.sleep(0.3 * (times > 1))
    for process in processes_in(tmp_path) if to_all else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    status = -number if number == signal.SIGINT else 128 + number
    assert run.process.wait(60) == status, run.output()
    named = 'SIG(?:USR1|TERM)' if to_all and number == signal.SIGUSR1 else 'SIGTERM'
    # Of each process, and again below what torchrun says of it.
    assert len(re.findall(f'\nstopped by {named} after iteration', run.output())) == 3, run.output()
    assert re.match(f'stopped by {named} after', run.output().splitlines()[-1]), run.output()
    end = time.monotonic() + 10
    while left := processes_in(tmp_path):  # no process is left alone
        assert time.monotonic() < end, left
        time.sleep(0.1)
    stopped = load(tmp_path / 'work/stopped.pth')
    assert 1 <= stopped['meta']['iter'] <= 3
    assert len(stopped['exact_resume']['random_states']) == 2
    again = Training(tmp_path, *options, processes=2)
    assert again.process.wait(300) == 0, again.output()
    assert 'epoch 1 resumes after' in again.output()
    assert load(tmp_path / 'work/epoch_2.pth')['meta']['iter'] == 6


@pytest.mark.slow
def test_second_ctrl_c_ends_two_processes_at_once(digits, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    late = 'optim_wrapper.accumulative_counts=99'  # so that the stop has to wait
    options = (*options_of('work', digits, 9), 'train_dataloader.batch_size=2', late)
    run = Training(tmp_path, *options, processes=2)
    run.wait_for('Epoch(train) [1][1/3]')
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_for(CTRL_C)
    time.sleep(0.5)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.process.wait(60) == -signal.SIGINT, run.output()
    end = time.monotonic() + 10
    while left := processes_in(tmp_path):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    assert not (tmp_path / 'work/stopped.pth').exists()


@pytest.mark.slow
def test_two_processes_resumed_after_an_epoch_equal_two_uninterrupted(digits, run, tmp_path):
    quick = ('train_dataloader.batch_size=2', 'train_cfg.max_epochs=2')
    options = ('--data-root', digits, '--cfg-options', *QUICK, *quick)
    environment = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    for name, resume in (('whole', ()), ('resumed', ('--resume', 'whole/epoch_1.pth'))):
        command = ('dist_train.sh', CONFIG, 2, '--work-dir', name, *resume, *options)
        run(*command, cwd=tmp_path, PORT=str(free_port()), **environment)
    whole, resumed = (load(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'resumed'))
    assert len(whole['exact_resume']['random_states']) == 2
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
