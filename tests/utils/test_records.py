"""The last checkpoint of a work_dir is found where it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbam_det.engine.failures import resume_hint
from cbam_det.utils.records import last_checkpoint


def named(folder: Path, text: bytes) -> Path | None:
    (folder / 'last_checkpoint').write_bytes(text)
    return last_checkpoint(folder)


def test_checkpoint_is_in_the_work_dir_or_where_its_file_says(tmp_path):
    own, other = tmp_path / 'epoch_1.pth', tmp_path / 'other/epoch_1.pth'
    assert named(tmp_path, f'{other}\n'.encode()) == own  # which may have been deleted
    other.parent.mkdir()
    other.touch()
    assert named(tmp_path, str(other).encode()) == other  # `out_dir` of the hook
    own.touch()
    assert named(tmp_path, str(other).encode()) == own  # the folder was copied


@pytest.mark.parametrize('text', [b'', b'\n', b'\xff\xfe'])
def test_damaged_file_names_no_checkpoint(text, tmp_path):
    assert named(tmp_path, text) is None
    assert resume_hint(str(tmp_path)).endswith('(no checkpoint was written before)')
    assert last_checkpoint(tmp_path / 'gone') is None
