"""Signals stop a run with a checkpoint, and are as before after it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mmengine.hooks import Hook

from cbam_det.engine.runner import CheckedRunner
from cbam_det.utils.exits import SIGNALS, Stopped, one_line_errors

from ..conftest import ROOT, without_warnings
from .tiny_run import At, Draw, kill, load, same, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


def test_stop_in_a_validation_comes_after_it_and_with_the_weights_of_the_training(tmp_path):
    class InValidation(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
            if runner.epoch == 2 and batch_idx == 0:
                kill(runner)

    toy(tmp_path / 'whole').train()
    with pytest.raises(Stopped, match='after iteration 6 of 9') as stop:
        toy(tmp_path / 'cut', InValidation()).train()
    assert stop.value.status == 143
    assert Draw.score == 5
    assert same(tmp_path / 'whole/epoch_2.pth', tmp_path / 'cut/stopped.pth')
    toy(tmp_path / 'cut', resume=True, load_from=str(tmp_path / 'cut/stopped.pth')).train()
    assert same(tmp_path / 'whole/epoch_3.pth', tmp_path / 'cut/epoch_3.pth')


def test_processes_that_a_run_forks_end_by_sigterm(tmp_path):
    """They inherit the handlers; VOCMetric's pool, for one, waits for those that it ends so."""

    def fork(runner: CheckedRunner) -> None:
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(20)
        statuses.append(child.exitcode)
        child.kill()

    statuses: list[int | None] = []
    toy(tmp_path, At(2, fork)).train()
    assert statuses == [-signal.SIGTERM]


def test_stop_waits_for_the_gradients_that_are_accumulated(tmp_path):
    runner = toy(tmp_path, At(1, kill))
    runner.optim_wrapper['accumulative_counts'] = 2
    with pytest.raises(Stopped, match='after iteration 2 of 9'):
        runner.train()


def test_further_signals_change_nothing_and_after_a_run_they_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)

    def twice(runner: CheckedRunner) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        kill(runner)

    with pytest.raises(Stopped, match='stopped by SIGUSR1 after iteration 2') as stop:
        toy(tmp_path / 'cut', At(2, twice)).train()
    assert stop.value.status == 128 + signal.SIGUSR1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before
    toy(tmp_path / 'whole').train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_ctrl_c_stops_with_a_checkpoint_and_workers_are_there_until_then(tmp_path, capfd):
    def interrupt(runner: CheckedRunner) -> None:
        for process in multiprocessing.active_children():  # as a terminal does
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGUSR1)  # from a scheduler
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    runner = toy(tmp_path / 'cut', At(5, interrupt), workers=2)
    runner.optim_wrapper['accumulative_counts'] = 4  # so that a validation comes before the stop
    with pytest.raises(Stopped, match='stopped by SIGINT after iteration 6 of 9: saved') as stop:
        runner.train()
    assert stop.value.status == 130
    assert (
        'Ctrl-C: stops after this iteration (or validation) with a checkpoint'
        in capfd.readouterr().err
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path / 'cut/stopped.pth')['meta']['iter'] == 6


def test_second_ctrl_c_ends_at_once_and_names_the_last_checkpoint(tmp_path):
    def interrupt(runner: CheckedRunner) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    message = r'interrupted; to continue, run .* --resume \(.*epoch_1.pth is complete\)'
    with pytest.raises(Stopped, match=message) as stop:
        toy(tmp_path, At(4, interrupt)).train()
    assert stop.value.status == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / 'stopped.pth').exists()


def test_training_in_another_thread_ignores_signals_with_a_warning(tmp_path, capfd):
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor() as threads:
        threads.submit(toy(tmp_path).train).result()
    assert (tmp_path / 'epoch_3.pth').exists() and signal.getsignal(signal.SIGTERM) is before
    assert 'the training is not in the main thread' in ''.join(capfd.readouterr())


def test_run_in_a_script_s_background_ignores_ctrl_c(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        toy(tmp_path, At(4, lambda runner: os.kill(os.getpid(), signal.SIGINT))).train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / 'epoch_3.pth').exists()


def test_ctrl_c_is_one_line_and_the_signal_s_own_end(capsys, monkeypatch):
    def run() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'excepthook', None)
    with pytest.raises(KeyboardInterrupt):
        one_line_errors(run)
    assert capsys.readouterr().err == 'interrupted\n'
    code = (
        'import os, signal; from cbam_det.utils.exits import Stopped, one_line_errors\n'
        'def run(): raise Stopped("stopped", signal.SIGINT)\n'
        'one_line_errors(run)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGINT  # so that a shell's loop ends, too
    assert without_warnings(done.stderr) == 'stopped\n'


def test_ctrl_c_saves_though_nobody_listens_any_more(tmp_path):
    def interrupt(runner: CheckedRunner) -> None:
        kept, (reader, writer) = os.dup(2), os.pipe()
        os.close(reader)
        os.dup2(writer, 2)  # as of `2>&1 | tee log`, which the same Ctrl-C has ended
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.dup2(kept, 2)
            os.close(writer)

    with pytest.raises(Stopped, match='stopped by SIGINT after iteration 4 of 9: saved'):
        toy(tmp_path, At(4, interrupt)).train()


def test_run_that_fails_leaves_the_signals_as_they_were(tmp_path):
    def fail(runner: CheckedRunner) -> None:
        raise ZeroDivisionError

    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError):
        toy(tmp_path, At(4, fail)).train()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_second_ctrl_c_reports_whether_there_is_a_checkpoint_to_go_on_from(tmp_path):
    def interrupt(runner: CheckedRunner) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    for iteration, message in (
        (2, 'again .no checkpoint was written before'),
        (4, 'epoch_1.pth is'),
    ):
        with pytest.raises(Stopped, match=message):
            toy(tmp_path, At(iteration, interrupt)).train()


# A script of a user's, which catches nothing.
SCRIPT = """
import sys
from pathlib import Path
from tests.engine.tiny_run import At, kill, toy

class Fault(ValueError):
    pass

def fail(runner):
    raise Fault('of the script')

toy(Path(sys.argv[1]), At(2, kill if sys.argv[2] == 'kill' else fail)).train()
"""


@pytest.mark.parametrize(('action', 'status'), [('kill', 143), ('fail', 1)])
def test_script_that_is_stopped_ends_by_one_line_and_the_signal_s_status(action, status, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(tmp_path), action],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    last = done.stderr.splitlines()[-1]
    assert ('Traceback' in done.stderr) == (action == 'fail')
    if action == 'kill':
        assert last.startswith('stopped by SIGTERM after iteration 2 of 9: saved ')
    else:
        assert last.endswith('Fault: of the script')


HIDES_OUTPUT = """
import io, sys
from pathlib import Path
from mmengine.runner import Runner
from cbam_det.utils.errors import InputError
from tests.engine.tiny_run import At, toy

def setup_env(self, env_cfg, setup=Runner.setup_env):
    setup(self, env_cfg)
    previous = sys.excepthook

    def as_torch_s(*error):  # of torch's process group, which a GPU gets here
        kept, sys.stderr = sys.stderr, io.StringIO()
        previous(*error)
        kept.write(sys.stderr.getvalue())

    sys.excepthook = as_torch_s

def fail(runner):
    raise InputError('a fault')

Runner.setup_env = setup_env
toy(Path(sys.argv[1]), At(2, fail)).train()
"""


def test_script_s_error_is_printed_though_the_process_group_s_hook_hides_output(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', HIDES_OUTPUT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1:] == ['error: a fault'] and done.returncode == 2


def test_stopped_command_tells_how_to_go_on_and_has_the_signal_s_status(capsys):
    def run() -> None:
        raise Stopped('stopped by SIGUSR1', signal.SIGUSR1)

    assert one_line_errors(run) == 128 + signal.SIGUSR1
    assert capsys.readouterr().err == 'stopped by SIGUSR1\n'
