"""A full disk, an image that cannot be read, a lack of memory: one line with the remedy."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from torch.utils.data import Dataset

from cbam_det.engine import failures as faults
from cbam_det.engine import launch, preflight
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIG, in_process
from .tiny_run import At, load, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


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
    assert f'with --resume ({first} is complete)' in str(error.value) and '\n' not in str(
        error.value
    )
    assert [path.name for path in tmp_path.glob('*.p[at]*')] == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(first)
    assert load(first)['meta']['epoch'] == 1


@pytest.mark.parametrize(
    ('number', 'did', 'remedy'),
    [
        (errno.ENOSPC, 'write', 'free some space or fix the disk'),
        (errno.EROFS, 'write', 'free some space or fix the disk'),
        (errno.EACCES, 'read or write', 'give your user permission for it'),
        (errno.EPERM, 'read or write', 'give your user permission for it'),
        (errno.EIO, 'read or write', 'fix the disk or its connection'),
        (errno.ENOENT, 'read', 'restore the file'),
    ],
)
def test_fault_of_the_disk_is_told_with_its_file_and_its_remedy(number, did, remedy, tmp_path):
    error = OSError(number, os.strerror(number), 'train2017/1.jpg')
    message = str(faults.explain(error, Config(), str(tmp_path)))
    assert message.startswith(f'the run could not {did} train2017/1.jpg (')
    again = 'then run the same command again (no checkpoint was written before)'
    assert message.endswith(f'{remedy}, {again}')


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
    message = str(faults.explain(error.value, Config(), None))
    assert message.endswith('then run the same command again') and '\n' not in message
    if there:
        assert message.startswith(f'the image {image} cannot be decoded; ')
    else:
        assert message.startswith(f'the run could not read {image} (FileNotFoundError: ')
        assert '; restore the file, then ' in message


def test_checkpoint_is_called_complete_where_it_is_there_and_gone_where_it_is_not(tmp_path):
    last, error = tmp_path / 'epoch_1.pth', OSError(errno.EIO, 'no')
    (tmp_path / 'last_checkpoint').write_text(str(last))
    assert f'(the last checkpoint {last} is gone)' in str(
        faults.explain(error, Config(), str(tmp_path))
    )
    last.touch()
    assert f'({last} is complete)' in str(faults.explain(error, Config(), str(tmp_path)))


@pytest.mark.parametrize('key', ['work_dir', 'out_dir'])
def test_folder_that_cannot_be_written_is_named_before_the_run(key, tmp_path):
    """In /proc not even root can write."""
    cfg = Config(dict(work_dir=str(tmp_path / 'a/b'), default_hooks=dict(checkpoint=dict())))
    preflight.check_work_dir(RunConfig.from_cfg(cfg))
    assert list(tmp_path.iterdir()) == []
    (cfg if key == 'work_dir' else cfg.default_hooks.checkpoint)[key] = '/proc/absent/run'
    with pytest.raises(InputError, match=rf'{key} /proc/absent/run cannot be written \(/proc: '):
        preflight.check_work_dir(RunConfig.from_cfg(cfg))


def test_folder_whose_name_is_too_long_is_named():
    with pytest.raises(InputError, match=r'x{300} cannot be .*File name too long'):
        preflight.check_work_dir(RunConfig.from_cfg(Config(dict(work_dir='x' * 300))))


def test_lack_of_memory_names_what_to_lower_with_the_present_values():
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.plugins[0].cfg.memory_efficient = False
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    message = str(faults.explain(error.value, cfg, 'work'))
    assert message.startswith('out of memory (RuntimeError: ') and '\n' not in message
    for option in (
        'train_dataloader.batch_size (now 4)',
        'train_dataloader.dataset.pipeline.2.scale, the image size (now (192, 192))',
        '--amp (now off)',
        'model.backbone.plugins.0.cfg.memory_efficient=True (now False)',
        'model.backbone.with_cp=True (now False)',
    ):
        assert option in message
    cfg.merge_from_dict(
        {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'train_dataloader.batch_size': 1,
            'model.backbone.with_cp': True,
            'model.backbone.plugins.0.cfg.memory_efficient': True,
        }
    )
    message = str(faults.explain(torch.cuda.OutOfMemoryError('CUDA out of memory.'), cfg, 'work'))
    assert '(OutOfMemoryError: CUDA out of memory.)' in message
    assert 'pipeline.2.scale' in message
    assert not any(
        text in message for text in ('batch_size', '--amp', 'memory_efficient', 'with_cp')
    )
    for text in ('CUDA error: out of memory', 'CUBLAS_STATUS_ALLOC_FAILED when calling cublas'):
        assert 'out of memory (' in str(faults.explain(RuntimeError(text), cfg, 'work'))
    cfg.test_dataloader.batch_size = 3
    message = str(faults.explain(MemoryError(), cfg, None))
    assert message.startswith(
        'out of memory (MemoryError); options that need less: test_dataloader.'
    )
    assert 'test_dataloader.batch_size (now 3); test_dataloader.dataset.pipeline.1.scale' in message
    assert not any(text in message for text in ('train', '--amp', 'memory_efficient', 'with_cp'))


@pytest.mark.parametrize(
    ('number', 'words'),
    [
        (signal.SIGBUS, '/dev/shm.*--shm-size=8g`, or give --cfg-options {name}.num_workers=0'),
        (signal.SIGKILL, r'lower {name}.num_workers \(now 1\), {name}.batch_size \(now 4\)'),
    ],
)
def test_worker_that_is_killed_is_explained(number, words, tmp_path):
    """torch raises it alone or as the cause of another error, depending on the moment."""
    with pytest.raises(RuntimeError) as caught:
        list(torch.utils.data.DataLoader(Killed(number), num_workers=1))
    alone = caught.value.__cause__ or caught.value
    caused = RuntimeError('DataLoader worker (pid(s) 12) exited unexpectedly')
    caused.__cause__ = alone
    cfg = Config.fromfile(CONFIG)
    for name in ('train_dataloader', 'test_dataloader'):
        cfg[name].update(num_workers=1, batch_size=4)
        for error in (alone, caused):
            work_dir = str(tmp_path) if name == 'train_dataloader' else None
            message = str(faults.explain(error, cfg, work_dir))
            assert re.search(words.format(name=name), message) and '\n' not in message
            assert 'then run the same command again' in message


class Killed(Dataset):
    """One image, whose worker gets a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        os.kill(os.getpid(), self.number)


def test_folder_of_the_predictions_is_checked_before_a_test(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch, 'build_runner', lambda *_: pytest.fail('was built'))
    (tmp_path / 'w.pth').touch()
    (tmp_path / 'file').touch()
    for place in ('/proc/absent', tmp_path / 'file'):
        out = f'{place}/predictions.pkl'
        assert in_process('test')(CONFIG, tmp_path / 'w.pth', '--out', out) == 2
        assert f'error: --out {out} cannot be written (' in capsys.readouterr().err


def test_other_errors_are_not_explained_away():
    for error in (RuntimeError('shapes differ'), FileNotFoundError(2, 'no'), ValueError('x')):
        assert faults.explain(error, Config(), 'work') is None
