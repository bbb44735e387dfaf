"""Files that a file backend of MMEngine reads from elsewhere are not looked for on this machine."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.fingerprint import fingerprint
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .damaged_sets import PACK

# The form that the data configs of mmdet have in a comment.
PETREL = dict(backend='petrel', path_mapping={'./data/': 's3://openmmlab/datasets/detection/'})


def config(of_set: dict | None, of_images: dict | None, of_evaluator: dict | None) -> RunConfig:
    init_default_scope('mmdet')
    dataset = dict(
        type='CocoDataset',
        data_root='data/nowhere/',
        ann_file='val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=[dict(type='LoadImageFromFile', backend_args=of_images), PACK],
        backend_args=of_set,
    )
    ann_file = 'data/nowhere/val.json'
    evaluator = dict(type='CocoMetric', ann_file=ann_file, backend_args=of_evaluator)
    cfg = dict(val_dataloader=dict(dataset=dataset), val_evaluator=evaluator)
    return RunConfig.from_cfg(Config(cfg))


def test_data_of_another_backend_are_not_checked_with_the_reason(capsys):
    run = config(PETREL, PETREL, PETREL)
    assert check_data(run, ('val',)) == {}
    assert fingerprint(run.splits['val'].data_sets[0]) == ''
    assert 'val data: not checked, as CocoDataset is not on a local disk' in capsys.readouterr().out
    assert check_data(config(None, PETREL, PETREL), ('val',)) == {}  # only the images are elsewhere


@pytest.mark.parametrize('backend_args', [None, {}, dict(backend='local')])
def test_data_of_the_local_backend_are_checked(backend_args):
    with pytest.raises(InputError, match='no data folder data/nowhere'):
        check_data(config(backend_args, backend_args, PETREL), ('val',))
    with pytest.raises(InputError, match=r"val_evaluator\.ann_file='data/nowhere/val\.json' does"):
        check_data(config(PETREL, PETREL, backend_args), ('val',))
