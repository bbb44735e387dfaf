"""A key of `filter_cfg` is rejected only if nothing reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import DATASETS

from cbam_det.utils.errors import InputError

from .damaged_sets import coco
from .one_set import check_dataset


@DATASETS.register_module()
class Rated(CocoDataset):
    """Keeps images with a rating of at least `filter_cfg.least_rating`."""

    def filter_data(self) -> list[dict]:
        least = self.filter_cfg.get('least_rating', 0)
        return [info for info in self.data_list if info.get('rating', 5) >= least]


@DATASETS.register_module()
class Plain(CocoDataset):
    """Filters as mmdet does."""


def test_key_that_a_subclass_reads_in_its_own_filter_passes(tmp_path: Path, capsys):
    check_dataset({**coco(tmp_path), 'type': 'Rated', 'filter_cfg': dict(least_rating=3)})
    assert 'filter_cfg' not in capsys.readouterr().out


def test_key_that_the_source_of_such_a_subclass_lacks_is_logged(tmp_path: Path, capsys):
    key = 'least_' + 'ratin'  # not written as one word, since the check reads this file
    check_dataset({**coco(tmp_path), 'type': 'Rated', 'filter_cfg': {key: 3}})
    assert f"reads filter_cfg.{key}; did you mean 'least_rating'" in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['CocoDataset', 'Plain'])
def test_key_that_nothing_reads_is_refused(kind: str, tmp_path: Path):
    key = 'filter_' + 'empty'
    dataset = {**coco(tmp_path), 'type': kind, 'filter_cfg': {key: True}}
    with pytest.raises(
        InputError, match=f"{key} of {kind} .* ignored.*did you mean 'filter_empty_gt"
    ):
        check_dataset(dataset)
