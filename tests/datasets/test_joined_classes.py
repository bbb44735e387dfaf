"""Data sets that a config joins number their classes alike, whichever is first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from cbam_det.datasets.validation.config import check_data
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .damaged_sets import coco


@pytest.fixture
def joined(tmp_path: Path) -> list[dict]:
    """Two sets of the same classes, whose files list them in opposite orders."""
    sets = []
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        sets.append(coco(tmp_path / name))
    file = tmp_path / 'second/train.json'
    content = json.loads(file.read_text())
    content['categories'].reverse()
    file.write_text(json.dumps(content))
    sets[1]['metainfo'] = dict(classes=tuple(reversed(sets[0]['metainfo']['classes'])))
    return sets


def check(datasets: list[dict], model: dict | None = None) -> None:
    joined = dict(type='ConcatDataset', datasets=datasets)
    cfg = Config(dict(train_dataloader=dict(dataset=joined), model=model))
    check_data(RunConfig.from_cfg(cfg), ('train',))


@pytest.mark.parametrize('step', [1, -1])
def test_labels_that_mean_another_class_in_a_joined_set_are_refused(step, joined):
    with pytest.raises(InputError, match=r'datasets\.1 has the classes .*, but .*datasets\.0 '):
        check(joined[::step])


def test_classes_of_joined_sets_may_differ_for_a_language_model(joined):
    check(joined, dict(type='GLIP', language_model=dict(type='BertModel')))
