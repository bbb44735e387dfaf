"""`init` as a user runs it: what it says, and a project that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cbam_det.utils.installation import tool_command

from ..conftest import QUICK, in_process
from ..datasets.layout_folders import items_of, labelimg_voc


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Path:
    root = tmp_path / 'my digits'
    root.mkdir()
    labelimg_voc(root, *items_of(digits))
    return root


def test_tool_tells_what_it_read_chose_and_wrote(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my digits_cbam').mkdir()  # empty
    assert in_process('init')(data, '--epochs', 3, '--size', 192, 96, '--seed', 1) == 0
    said = capsys.readouterr().out
    for line in (
        f'{data}: VOC, 10 classes',
        '  train: 14 images,',
        '  no split was found: 3 of 17 images are used for validation, split by images; their '
        'names show no sequences, seed 1',
        '  size=(192, 96): given by --size',
        '  batch_size=3: only 14 images have objects: 5 steps per epoch',
        '  epochs=3: given by --epochs',
        f'written to {tmp_path}/my digits_cbam;',
        f'  {tool_command("compare", tmp_path / "my digits_cbam")}',
    ):
        assert line in said
    assert in_process('init')(data) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f'error: {tmp_path}/my digits_cbam is not empty (') and not said.out
    assert said.err.count('\n') == 1


@pytest.mark.slow
def test_project_passes_the_check_and_trains_from_any_folder(
    data: Path, tmp_path: Path, run: Callable
):
    folder = tmp_path / 'a study'
    run('init.py', data, '--out', folder, '--epochs', 1, '--detector', 'faster_rcnn_r18', cwd='/')
    run('check_data.py', folder / 'baseline.py', cwd='/')
    options = (*QUICK, 'model.backbone.init_cfg=None')
    work = tmp_path / 'work'
    run('train.py', folder / 'cbam.py', '--work-dir', work, '--cfg-options', *options, cwd='/')
    rows = [json.loads(line) for line in next(work.glob('*/vis_data/scalars.json')).open()]
    assert sum('loss' in row for row in rows) == 4  # 14 images by batches of 4
    assert sum('coco/bbox_mAP' in row for row in rows) == 1
    assert (work / 'epoch_1.pth').is_file()
