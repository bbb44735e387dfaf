"""Runs that are killed, stopped, resumed, or that the machine fails."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from cbam_det.checkpoints import files, loading
from cbam_det.engine import failures as faults
from cbam_det.engine import preflight
from cbam_det.engine.hooks.exact_resume_hook import random_states, set_random_states
from cbam_det.engine.hooks.finite_losses_hook import FiniteLossesHook
from cbam_det.engine.runner import CheckedRunner
from cbam_det.utils.errors import CTRL_C, SIGNALS, InputError, Stopped, one_line_errors
from cbam_det.utils.files import whole_file

from ..conftest import CONFIGS, QUICK, ROOT, free_port, in_process, without_warnings

CONFIG = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'
BEST = dict(save_best='toy/score', rule='greater')
IMAGES, BATCH = 12, 4  # three iterations an epoch


class Noisy(Dataset):
    """Samples of an index and of a draw of each generator."""

    metainfo = dict(classes=('one',))

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        draws = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        sample = BaseDataElement(metainfo=dict(img_path=f'{index}.jpg'))
        return dict(inputs=torch.tensor(draws), data_samples=sample)


class Noise(BaseModel):
    """A linear layer whose loss has noise; it notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer('ballast', torch.zeros(200_000))  # 0.8 MB in each checkpoint
        self.seen: list[list[float]] = []

    def forward(self, inputs: list, data_samples: list, mode: str = 'tensor') -> object:
        x = torch.stack(list(inputs))
        if mode != 'loss':
            return [dict(score=torch.rand(()).item())] * len(x)
        self.seen += x.tolist()
        return dict(loss=(self.layer(x) + torch.rand(len(x), 1)).square().mean() / 100)


class Draw(BaseMetric):
    """A validation that draws from every generator, and scores by the epoch."""

    default_prefix = 'toy'
    score = 0

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(random.random() + np.random.rand())

    def compute_metrics(self, results: list) -> dict:
        Draw.score += 1
        return dict(score=Draw.score)


class At(Hook):
    """Does something after an iteration, counted from 1."""

    def __init__(self, iteration: int, action: Callable) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            self.action(runner)


RUNNERS: list[CheckedRunner] = []


@pytest.fixture(autouse=True)
def _training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(files.WEIGHTS_ONLY, '1')
    files.read_weights_only()  # as the tools do
    monkeypatch.setattr(os, 'fsync', lambda file: None)  # seconds, where others write much
    Draw.score = 0
    # Tests in a script's background ignore it, and so would the runs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    for runner in RUNNERS:  # python's garbage collector takes 5 s to end a worker
        for loop in (runner._train_loop, runner._val_loop):
            if iterator := getattr(getattr(loop, 'dataloader', None), '_iterator', None):
                iterator._shutdown_workers()
    RUNNERS.clear()


def toy(
    work: Path,
    *hooks: Hook,
    workers: int = 0,
    by_epoch: bool = True,
    seed: int | None = 0,
    **options,
) -> CheckedRunner:
    """A run of three epochs of three iterations, with a moving average; `default` are hooks."""
    loader = dict(dataset=Noisy(), batch_size=BATCH, num_workers=workers)
    if workers:
        loader['persistent_workers'] = True
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    checkpoint = dict(type='CheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch)
    checkpoint.update(options.pop('checkpoint', {}))
    torch.manual_seed(0)
    steps = dict(max_epochs=3) if by_epoch else dict(max_iters=9, val_interval=3)
    runner = CheckedRunner(
        model=Noise(),
        work_dir=str(work),
        train_dataloader=dict(loader, sampler=dict(type=sampler, shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=by_epoch, **steps),
        val_cfg=dict(),
        val_evaluator=[Draw()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='ExponentialLR', gamma=0.9, by_epoch=False),
        default_hooks=dict(checkpoint=checkpoint, **options.pop('default', {})),
        custom_hooks=[dict(type='EMAHook'), *hooks],
        randomness=dict(seed=seed),
        experiment_name=f'{work.name}_{time.monotonic_ns()}',
        default_scope='mmengine',
        log_level='WARNING',
        **options,
    )
    RUNNERS.append(runner)
    return runner


def load(path: Path) -> dict:
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')


def state(path: Path) -> dict[str, torch.Tensor]:
    loaded = load(path)
    return {**loaded['state_dict'], **loaded['ema_state_dict']}


def same(one: Path, other: Path) -> bool:
    one, other = state(one), state(other)
    assert one.keys() == other.keys() and len(one) >= 6
    return all(torch.equal(one[key], other[key]) for key in one)


def kill(runner: CheckedRunner) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize('workers', [0, 2])
def test_run_resumed_at_an_epoch_s_end_equals_the_uninterrupted_one(workers, tmp_path):
    toy(tmp_path / 'whole', workers=workers).train()
    for name, seed, default in (
        *(('resumed', 0, {}), ('seedless', None, {})),
        ('mmengine', 0, dict(exact_resume=None)),
    ):
        first = tmp_path / 'whole/epoch_1.pth'
        options = dict(workers=workers, seed=seed, default=default)
        toy(tmp_path / name, resume=True, load_from=str(first), **options).train()
    last = [
        tmp_path / name / 'epoch_3.pth' for name in ('whole', 'resumed', 'seedless', 'mmengine')
    ]
    assert same(last[0], last[1])
    assert same(last[0], last[2])
    assert not same(last[0], last[3])  # what MMEngine alone restores is not enough


def test_workers_draw_anew_in_each_epoch_and_each_differently(tmp_path):
    runner = toy(tmp_path, workers=2)
    runner.train()
    seen = np.array(runner.model.seen)
    assert [sorted(epoch) for epoch in seen[:, 0].reshape(3, IMAGES)] == [list(range(IMAGES))] * 3
    for generator in (1, 2, 3):
        assert len(set(seen[:, generator])) == 3 * IMAGES


@pytest.mark.parametrize(('at', 'workers'), [(4, 0), (5, 0), (6, 0), (5, 2)])
def test_stopped_epoch_goes_on_with_the_images_that_it_has_not_seen(at, workers, tmp_path):
    whole = toy(tmp_path / 'whole', workers=workers)
    whole.train()
    with pytest.raises(Stopped, match=rf'stopped by SIGTERM after iteration {at} of 9: saved in'):
        toy(tmp_path / 'cut', At(at, kill), workers=workers).train()
    stopped = tmp_path / 'cut/stopped.pth'
    assert (tmp_path / 'cut/last_checkpoint').read_text() == str(stopped)
    assert load(stopped)['meta']['iter'] == at
    found = loading.whole_checkpoint(tmp_path / 'cut')
    resumed = toy(tmp_path / 'cut', resume=True, load_from=found, workers=workers)
    resumed.train()
    expected = np.array(whole.model.seen)[at * BATCH :]
    seen = np.array(resumed.model.seen)
    assert resumed.iter == 9
    assert seen[:, 0].tolist() == expected[:, 0].tolist()
    if not workers:
        assert same(tmp_path / 'whole/epoch_3.pth', tmp_path / 'cut/epoch_3.pth')


@pytest.mark.parametrize('workers', [0, 2])
def test_iterations_go_on_with_the_images_that_are_next(workers, tmp_path):
    whole = toy(tmp_path / 'whole', by_epoch=False, workers=workers)
    whole.train()
    with pytest.raises(Stopped, match='after iteration 5 of 9'):
        toy(tmp_path / 'cut', At(5, kill), by_epoch=False, workers=workers).train()
    options = dict(resume=True, load_from=str(tmp_path / 'cut/stopped.pth'), by_epoch=False)
    resumed = toy(tmp_path / 'cut', workers=workers, **options)
    resumed.train()
    seen, expected = np.array(resumed.model.seen), np.array(whole.model.seen)[5 * BATCH :]
    assert seen[:, 0].tolist() == expected[:, 0].tolist()
    if workers:
        assert not set(seen[:, 1]) & set(np.array(whole.model.seen)[:, 1])
    else:
        assert same(tmp_path / 'whole/iter_9.pth', tmp_path / 'cut/iter_9.pth')


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
    said = r'interrupted; to go on, give .* --resume \(.*epoch_1.pth is whole\)'
    with pytest.raises(Stopped, match=said) as stop:
        toy(tmp_path, At(4, interrupt)).train()
    assert stop.value.status == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / 'stopped.pth').exists()


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
        'import os, signal; from cbam_det.utils.errors import Stopped, one_line_errors\n'
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


def test_second_ctrl_c_tells_whether_there_is_a_checkpoint_to_go_on_from(tmp_path):
    def interrupt(runner: CheckedRunner) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    for iteration, said in ((2, 'again .no checkpoint was written before'), (4, 'epoch_1.pth is')):
        with pytest.raises(Stopped, match=said):
            toy(tmp_path, At(iteration, interrupt)).train()


def test_stopped_command_tells_how_to_go_on_and_has_the_signal_s_status(capsys):
    def run() -> None:
        raise Stopped('stopped by SIGUSR1', signal.SIGUSR1)

    assert one_line_errors(run) == 128 + signal.SIGUSR1
    assert capsys.readouterr().err == 'stopped by SIGUSR1\n'


def test_run_killed_while_it_wrote_goes_on_and_stops_in_what_that_left(tmp_path, monkeypatch):
    put = LocalBackend.put

    def watched(backend: LocalBackend, data: bytes, path: str) -> None:
        if Path(path).name == 'epoch_2.pth.part':
            Path(path).write_bytes(data[:1000])
            shutil.copytree(tmp_path / 'run', tmp_path / 'killed')
        put(backend, data, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, 'put', watched)
        toy(tmp_path / 'run').train()
    killed = tmp_path / 'killed'
    assert {path.name for path in killed.glob('*.part')} == {'epoch_2.pth.part', 'folder.part'}
    options = dict(resume=True, load_from=loading.whole_checkpoint(killed))
    with pytest.raises(Stopped, match='after iteration 4 of 9: saved in'):
        toy(killed, At(4, kill), **options).train()
    assert (killed / 'last_checkpoint').read_text() == str(killed / 'stopped.pth')
    toy(killed, resume=True, load_from=loading.whole_checkpoint(killed)).train()
    assert same(tmp_path / 'run/epoch_3.pth', killed / 'epoch_3.pth')
    assert not list(killed.glob('*.part'))


@pytest.mark.parametrize('best', [False, True])
def test_at_each_moment_of_writing_another_whole_checkpoint_lies_there(best, tmp_path, monkeypatch):
    put = LocalBackend.put
    moments = []

    def watched(backend: LocalBackend, data: bytes, path: str) -> None:
        there = sorted(file.name for file in tmp_path.glob('*.pth'))
        last = tmp_path / 'last_checkpoint'
        moments.append((Path(path).name, there, Path(last.read_text()).name if there else None))
        put(backend, data, path)

    monkeypatch.setattr(LocalBackend, 'put', watched)
    toy(
        tmp_path, checkpoint=dict(BEST, max_keep_ckpts=1) if best else dict(max_keep_ckpts=1)
    ).train()
    left = {path.name for path in tmp_path.glob('*.p[at]*')}
    if not best:
        assert moments == [
            ('epoch_1.pth.part', [], None),
            ('epoch_2.pth.part', ['epoch_1.pth'], 'epoch_1.pth'),
            ('epoch_3.pth.part', ['epoch_2.pth'], 'epoch_2.pth'),
        ]
        assert left == {'epoch_3.pth'}
    else:
        bests = [there for name, there, _ in moments if name == 'best_toy_score_epoch_3.pth.part']
        assert bests == [['best_toy_score_epoch_2.pth', 'epoch_3.pth']]
        assert left == {'best_toy_score_epoch_3.pth', 'epoch_3.pth'}


@pytest.fixture
def small_files() -> Iterator[Callable]:
    """No file can grow above 0.5 MB after it is called: what a full disk does, for real."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda runner: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(small_files, tmp_path):
    with pytest.raises(InputError, match=r'could not write.*File too large') as error:
        toy(tmp_path, At(5, small_files), checkpoint=dict(max_keep_ckpts=1)).train()
    first = tmp_path / 'epoch_1.pth'
    assert f'with --resume ({first} is whole)' in str(error.value) and '\n' not in str(error.value)
    assert [path.name for path in tmp_path.glob('*.p[at]*')] == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(first)
    assert load(first)['meta']['epoch'] == 1


@pytest.mark.parametrize(
    ('number', 'did', 'remedy'),
    [
        (errno.ENOSPC, 'write', 'make room or mend the disk'),
        (errno.EROFS, 'write', 'make room or mend the disk'),
        (errno.EACCES, 'read or write', 'permit it to the user of the run'),
        (errno.EPERM, 'read or write', 'permit it to the user of the run'),
        (errno.EIO, 'read or write', 'mend the disk or its connection'),
        (errno.ENOENT, 'read', 'put it back'),
    ],
)
def test_fault_of_the_disk_is_told_with_its_file_and_its_remedy(number, did, remedy, tmp_path):
    error = OSError(number, os.strerror(number), 'train2017/1.jpg')
    said = str(faults.explain(error, Config(), str(tmp_path)))
    assert said.startswith(f'the run could not {did} train2017/1.jpg (')
    again = 'then give the same command again (no checkpoint was written before)'
    assert said.endswith(f'{remedy}, {again}')


class Spoilt(Dataset):
    """One image, which cannot be read."""

    def __init__(self, path: Path) -> None:
        self.load = LoadImageFromFile()
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self.load(dict(img_path=str(self.path)))


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('there', [False, True])
def test_image_that_cannot_be_read_in_the_middle_of_a_run_is_one_line(there, workers, tmp_path):
    image = tmp_path / 'one image.jpg'
    if there:
        image.write_bytes(b'no image')
    with pytest.raises((OSError, AssertionError)) as error:
        list(torch.utils.data.DataLoader(Spoilt(image), num_workers=workers))
    said = str(faults.explain(error.value, Config(), None))
    assert said.endswith('then give the same command again') and '\n' not in said
    if there:
        assert said.startswith(f'the image {image} cannot be decoded; ')
    else:
        assert said.startswith(f'the run could not read {image} (FileNotFoundError: ')
        assert '; put it back, then ' in said


def test_checkpoint_is_called_whole_where_it_is_there_and_gone_where_it_is_not(tmp_path):
    last, error = tmp_path / 'epoch_1.pth', OSError(errno.EIO, 'no')
    (tmp_path / 'last_checkpoint').write_text(str(last))
    assert f'(the last checkpoint {last} is gone)' in str(
        faults.explain(error, Config(), str(tmp_path))
    )
    last.touch()
    assert f'({last} is whole)' in str(faults.explain(error, Config(), str(tmp_path)))


def test_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyError), whole_file(path) as part:
        part.write_text('n')
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ['file'] and path.read_text() == 'old'
    with whole_file(path) as part:
        part.write_text('new')
    assert [file.name for file in tmp_path.iterdir()] == ['file'] and path.read_text() == 'new'


def test_random_states_pass_a_checkpoint(tmp_path):
    torch.save(random_states(), tmp_path / 'states.pth')
    drawn = [random.random(), random.gauss(0, 1), *np.random.randn(3), torch.rand(()).item()]
    set_random_states(torch.load(tmp_path / 'states.pth', weights_only=True))
    again = [random.random(), random.gauss(0, 1), *np.random.randn(3), torch.rand(()).item()]
    assert drawn == again


@pytest.fixture(scope='module')
def run_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp('three')
    toy(work, checkpoint=BEST).train()
    for number in (1, 2, 3):
        os.utime(work / f'epoch_{number}.pth', (number, number))
    return work


@pytest.fixture
def three(run_of_three: Path, tmp_path: Path) -> Path:
    """Its folder, moved elsewhere, with a best checkpoint that is the newest."""
    for path in run_of_three.glob('*.pth'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        os.utime(tmp_path / path.name, (path.stat().st_mtime,) * 2)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    return tmp_path


def truncate(path: Path) -> None:
    before = path.stat().st_mtime
    path.write_bytes(path.read_bytes()[:-1000])
    os.utime(path, (before, before))


def test_truncated_checkpoints_are_skipped_by_name_and_stay(three, capfd):
    assert loading.whole_checkpoint(three) == str(three / 'epoch_3.pth')
    truncate(three / 'epoch_3.pth')
    (three / 'epoch_2.pth').write_bytes(b'')
    os.utime(three / 'epoch_2.pth', (2, 2))
    capfd.readouterr()
    assert loading.whole_checkpoint(three) == str(three / 'epoch_1.pth')
    said = ' '.join(capfd.readouterr())
    assert f'skipped: the checkpoint {three / "epoch_3.pth"} (--resume) cannot be loaded' in said
    assert f'skipped: the checkpoint {three / "epoch_2.pth"}' in said and 'it is empty' in said
    assert (three / 'epoch_2.pth').exists() and (three / 'epoch_3.pth').exists()


def test_moved_or_lost_last_checkpoint_leads_to_the_newest(three):
    (three / 'last_checkpoint').write_text('/moved/epoch_3.pth')
    assert loading.whole_checkpoint(three) == str(three / 'epoch_3.pth')
    (three / 'last_checkpoint').write_text('')  # MMEngine, killed while it wrote this
    assert loading.whole_checkpoint(three) == str(three / 'epoch_3.pth')
    (three / 'last_checkpoint').unlink()
    assert loading.whole_checkpoint(three) == str(three / 'epoch_3.pth')


def test_nothing_whole_is_an_error_and_nothing_at_all_a_beginning(three, tmp_path_factory):
    for path in three.glob('epoch_*.pth'):
        truncate(path)
    with pytest.raises(InputError, match=r'epoch_3\.pth .*holds no other checkpoint to resume'):
        loading.whole_checkpoint(three)
    assert loading.whole_checkpoint(tmp_path_factory.mktemp('new')) is None
    assert loading.whole_checkpoint(three / 'absent') is None


@pytest.mark.parametrize('key', ['work_dir', 'out_dir'])
def test_folder_that_cannot_be_written_is_named_before_the_run(key, tmp_path):
    """In /proc not even root can write."""
    cfg = Config(dict(work_dir=str(tmp_path / 'a/b'), default_hooks=dict(checkpoint=dict())))
    preflight.check_work_dir(cfg)
    assert list(tmp_path.iterdir()) == []
    (cfg if key == 'work_dir' else cfg.default_hooks.checkpoint)[key] = '/proc/absent/run'
    with pytest.raises(InputError, match=rf'{key} /proc/absent/run cannot be written \(/proc: '):
        preflight.check_work_dir(cfg)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_loss_that_is_not_finite_stops_the_run_and_saves_its_batch(value, tmp_path):
    def spoil(runner: CheckedRunner) -> None:
        with torch.no_grad():
            runner.model.layer.bias.fill_(value)

    with pytest.raises(InputError) as error:
        toy(tmp_path, At(3, spoil), checkpoint=dict(interval=2)).train()
    said = str(error.value)
    assert f'the loss is not finite (loss {value:g}; iteration 4, epoch 2) on ' in said
    saved = torch.load(tmp_path / 'nonfinite_iter_4.pth', weights_only=True)
    paths = [sample['img_path'] for sample in saved['batch']['data_samples']]
    assert len(paths) == BATCH and ', '.join(paths) in said
    assert [f'{int(image[0])}.jpg' for image in saved['batch']['inputs']] == paths
    assert saved['iter'] == 4 and not saved['losses']['loss'].isfinite()
    assert not list(tmp_path.glob('epoch_*'))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite loss, whose gradient spoils the weights in the iteration before a checkpoint."""

    def spoil(runner: CheckedRunner) -> None:
        runner.model.layer.bias.data.fill_(float('nan'))

    with pytest.raises(InputError, match=r'1 tensors of the weights are not finite \(layer\.bias'):
        toy(tmp_path, At(6, spoil)).train()
    assert [path.name for path in tmp_path.glob('*.p[at]*')] == ['epoch_1.pth']


@pytest.mark.parametrize(
    ('spoilt', 'said'),
    [
        (lambda runner: runner.model.ballast, r'\(ballast;'),
        (lambda runner: ema(runner).layer.weight, r'\(ema_state_dict module\.layer\.weight;'),
    ],
    ids=['statistic', 'moving average'],
)
def test_statistics_and_moving_averages_that_are_not_finite_are_not_saved(spoilt, said, tmp_path):
    with pytest.raises(InputError, match=f'1 tensors of the weights are not finite {said}'):
        toy(tmp_path, At(3, lambda runner: spoilt(runner).data[0].fill_(float('inf')))).train()
    assert not list(tmp_path.glob('*.p[at]*'))


def ema(runner: CheckedRunner) -> nn.Module:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module


def test_number_of_the_log_that_is_no_loss_may_be_nan():
    losses = dict(loss=torch.ones(()), acc=torch.tensor(nan))
    FiniteLossesHook().after_train_iter(None, 0, None, losses)


def test_finite_losses_are_left_out_by_config(tmp_path):
    def spoil(runner: CheckedRunner) -> None:
        runner.model.layer.bias.data.fill_(float('nan'))

    toy(tmp_path, At(4, spoil), default=dict(finite_losses=None)).train()
    assert state(tmp_path / 'epoch_3.pth')['layer.bias'].isnan().all()


def test_lack_of_memory_names_what_to_lower_with_the_present_values():
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.plugins[0].cfg.memory_efficient = False
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    said = str(faults.explain(error.value, cfg, 'work'))
    assert said.startswith('out of memory (RuntimeError: ') and '\n' not in said
    for option in (
        'train_dataloader.batch_size (now 4)',
        'train_dataloader.dataset.pipeline.2.scale, the image size (now (192, 192))',
        '--amp (now off)',
        'model.backbone.plugins.0.cfg.memory_efficient=True (now False)',
        'model.backbone.with_cp=True (now False)',
    ):
        assert option in said
    cfg.merge_from_dict(
        {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'train_dataloader.batch_size': 1,
            'model.backbone.with_cp': True,
            'model.backbone.plugins.0.cfg.memory_efficient': True,
        }
    )
    said = str(faults.explain(torch.cuda.OutOfMemoryError('CUDA out of memory.'), cfg, 'work'))
    assert '(OutOfMemoryError: CUDA out of memory.)' in said
    assert 'pipeline.2.scale' in said
    assert not any(text in said for text in ('batch_size', '--amp', 'memory_efficient', 'with_cp'))
    cfg.test_dataloader.batch_size = 3
    said = str(faults.explain(MemoryError(), cfg, None))
    assert said.startswith('out of memory (MemoryError); lower what takes it: test_dataloader.')
    assert 'test_dataloader.batch_size (now 3); test_dataloader.dataset.pipeline.1.scale' in said
    assert not any(text in said for text in ('train', '--amp', 'memory_efficient', 'with_cp'))


def test_other_errors_are_not_explained_away():
    for error in (RuntimeError('shapes differ'), FileNotFoundError(2, 'no'), ValueError('x')):
        assert faults.explain(error, Config(), 'work') is None


def test_detector_resumed_after_an_epoch_has_the_weights_of_the_uninterrupted_run(
    trained, digits, tmp_path, monkeypatch, capfd
):
    options = ['--work-dir', str(tmp_path), '--data-root', str(digits)]
    options += ['--resume', str(trained / 'work/epoch_1.pth'), '--cfg-options', *QUICK]
    assert in_process('train')(CONFIG, *options, 'train_cfg.max_epochs=2') == 0
    whole, resumed = load(trained / 'work/epoch_2.pth'), load(tmp_path / 'epoch_2.pth')
    assert whole['state_dict'].keys() == resumed['state_dict'].keys()
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 6
    assert 'exact_resume' not in resumed['meta']['cfg']  # the tool's doing, not the config's


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

    def said(self) -> str:
        return self.log.read_text()


def processes_in(folder: Path) -> dict[int, str]:
    """The commands of the processes that work in a folder, by their ids."""
    found = {}
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has ended
            if Path(os.readlink(process / 'cwd')) == folder:
                command = (process / 'cmdline').read_text().replace('\0', ' ')
                found[int(process.name)] = command
    return found


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
    assert whole.process.wait(600) == 0, whole.said()
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
    assert last.process.wait(600) == 0, last.said()
    name = f'epoch_{epochs}.pth'
    expected, found = (load(tmp_path / run / name)['state_dict'] for run in ('whole', 'killed'))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_training_ends_it_cleanly_and_it_goes_on(digits, tmp_path):
    run = Training(tmp_path, *options_of('work', digits, 2))
    run.wait_for('Epoch(train) [1][1/3]')
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.process.wait(60) == 143, run.said()
    assert run.said().splitlines()[-1].startswith('stopped by SIGTERM after iteration')
    assert 'Traceback' not in run.said() and 'is killed by signal' not in run.said()
    again = Training(tmp_path, *options_of('work', digits, 2))
    assert again.process.wait(300) == 0, again.said()
    assert 'epoch 1 goes on after' in again.said()
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
    assert run.process.wait(60) == status, run.said()
    named = 'SIG(?:USR1|TERM)' if to_all and number == signal.SIGUSR1 else 'SIGTERM'
    # Of each process, and again below what torchrun says of it.
    assert len(re.findall(f'\nstopped by {named} after iteration', run.said())) == 3, run.said()
    assert re.match(f'stopped by {named} after', run.said().splitlines()[-1]), run.said()
    end = time.monotonic() + 10
    while left := processes_in(tmp_path):  # no process is left alone
        assert time.monotonic() < end, left
        time.sleep(0.1)
    stopped = load(tmp_path / 'work/stopped.pth')
    assert 1 <= stopped['meta']['iter'] <= 3
    assert len(stopped['exact_resume']['random_states']) == 2
    again = Training(tmp_path, *options, processes=2)
    assert again.process.wait(300) == 0, again.said()
    assert 'epoch 1 goes on after' in again.said()
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
    assert run.process.wait(60) == -signal.SIGINT, run.said()
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
