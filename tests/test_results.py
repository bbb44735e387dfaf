"""Logs become series, records become the README's tables."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.tables import fill_tables
from cbam_det.utils.errors import InputError
from cbam_det.visualization.curves import read_run

from .conftest import ROOT


def log(folder, name, *rows):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_resumed_part_replaces_the_steps_that_it_repeats(tmp_path):
    log(
        tmp_path,
        '20260101_000000',
        dict(step=1, iter=1, loss=4.0, lr=0.1),
        dict(step=2, iter=2, loss=3.0, lr=0.1),
        {'step': 1, 'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2},
        '{"step": 3, "los',
    )
    log(
        tmp_path,
        '20260101_010000',
        dict(step=2, iter=2, loss=2.5, lr=0.05),
        dict(step=4, iter=4, loss=2.0, lr=0.05),
        {'step': 2, 'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4},
    )
    run = read_run(tmp_path)
    assert run.series['loss'] == ([1, 2, 4], [4.0, 2.5, 2.0])
    assert run.series['learning rate'] == ([1, 2, 4], [0.1, 0.05, 0.05])
    assert run.series['AP'] == ([2, 4], [0.1, 0.3])
    assert run.series['AP50'] == ([2, 4], [0.2, 0.4])


def test_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(InputError, match='holds no log of a training'):
        read_run(tmp_path)


def test_readme_shows_what_the_records_say():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert '<!-- results: demo -->' in text
    assert fill_tables(text, ROOT / 'results') == text
    studies = {path.stem for path in (ROOT / 'experiments').glob('*.yaml')}
    text = (ROOT / 'experiments' / 'README.md').read_text(encoding='utf-8')
    assert fill_tables(text, ROOT / 'results') == text
    assert set(re.findall(r'<!-- study: (\w+) -->\n\|', text)) == studies


def test_block_without_a_record_is_named(tmp_path):
    with pytest.raises(InputError, match=r'no record .*demo.json'):
        fill_tables('<!-- results: demo -->\n<!-- end -->', tmp_path)
