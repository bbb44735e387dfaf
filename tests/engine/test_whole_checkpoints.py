"""At each moment a whole checkpoint lies there, and one that is cut off is skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from mmengine.fileio import LocalBackend

from cbam_det.checkpoints import loading
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import Stopped
from cbam_det.utils.files import atomic_write

from .tiny_run import At, kill, same, toy

pytestmark = pytest.mark.usefixtures('tiny_runs')
BEST = dict(save_best='toy/score', rule='greater')


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
    options = dict(resume=True, load_from=loading.last_readable_checkpoint(killed))
    with pytest.raises(Stopped, match='after iteration 4 of 9: saved '):
        toy(killed, At(4, kill), **options).train()
    assert (killed / 'last_checkpoint').read_text() == str(killed / 'stopped.pth')
    toy(killed, resume=True, load_from=loading.last_readable_checkpoint(killed)).train()
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


def test_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyError), atomic_write(path) as part:
        part.write_text('n')
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ['file'] and path.read_text() == 'old'
    with atomic_write(path) as part:
        part.write_text('new')
    assert [file.name for file in tmp_path.iterdir()] == ['file'] and path.read_text() == 'new'


def test_path_in_last_checkpoint_is_utf_8_in_any_locale(tmp_path, monkeypatch):
    written, write = [], Path.write_text

    def watched(path: Path, text: str, encoding: str | None = None) -> int:
        if path.name == 'last_checkpoint.part':
            written.append((Path(text).name, encoding))
        return write(path, text, encoding)

    monkeypatch.setattr(Path, 'write_text', watched)
    with pytest.raises(Stopped):
        toy(tmp_path, At(4, kill)).train()
    assert written == [('epoch_1.pth', 'utf-8'), ('stopped.pth', 'utf-8')]


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
    assert loading.last_readable_checkpoint(three) == str(three / 'epoch_3.pth')
    truncate(three / 'epoch_3.pth')
    (three / 'epoch_2.pth').write_bytes(b'')
    os.utime(three / 'epoch_2.pth', (2, 2))
    capfd.readouterr()
    assert loading.last_readable_checkpoint(three) == str(three / 'epoch_1.pth')
    output = ' '.join(capfd.readouterr())
    assert f'skipped: the checkpoint {three / "epoch_3.pth"} (--resume) cannot be loaded' in output
    assert f'skipped: the checkpoint {three / "epoch_2.pth"}' in output and 'it is empty' in output
    assert (three / 'epoch_2.pth').exists() and (three / 'epoch_3.pth').exists()


def test_moved_or_lost_last_checkpoint_leads_to_the_newest(three):
    (three / 'last_checkpoint').write_text('/moved/epoch_3.pth')
    assert loading.last_readable_checkpoint(three) == str(three / 'epoch_3.pth')
    (three / 'last_checkpoint').write_text('')  # MMEngine, killed while it wrote this
    assert loading.last_readable_checkpoint(three) == str(three / 'epoch_3.pth')
    (three / 'last_checkpoint').unlink()
    assert loading.last_readable_checkpoint(three) == str(three / 'epoch_3.pth')


def test_nothing_whole_is_an_error_and_nothing_at_all_a_beginning(three, tmp_path_factory):
    for path in three.glob('epoch_*.pth'):
        truncate(path)
    with pytest.raises(InputError, match=r'epoch_3\.pth .*has no other checkpoint to resume'):
        loading.last_readable_checkpoint(three)
    assert loading.last_readable_checkpoint(tmp_path_factory.mktemp('new')) is None
    assert loading.last_readable_checkpoint(three / 'absent') is None
