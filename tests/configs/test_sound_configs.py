"""The checks of keys and data sets accept valid configs of other projects."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from cbam_det.engine.unknown_options import check_unknown_options
from cbam_det.utils.config import read_config
from cbam_det.utils.data_config import DataSet
from cbam_det.utils.split_config import Split

from ..conftest import CONFIGS, ROOT

CLASSIFIERS = [
    *sorted(map(str, (CONFIGS / 'imagenet').glob('*.py'))),
    *map(str, (ROOT / 'examples').glob('mmpretrain_project/*.py')),
]


@pytest.mark.parametrize('path', CLASSIFIERS[::4])
def test_data_sets_of_classifiers_are_read(path):
    cfg = read_config(path)
    for name in ('train', 'val', 'test'):
        assert Split.from_cfg(cfg, name).data_sets


def test_data_prefix_of_a_classifier_can_be_a_string():
    node = dict(type='mmpretrain.ImageNet', data_root='data/imagenet', data_prefix='train')
    assert DataSet.from_cfg(node).name == 'ImageNet'


def test_custom_keys_can_have_options_of_the_optimizer():
    keys = {'backbone': dict(lr_mult=0.1, betas=(0.9, 0.95)), 'norm': dict(lars_exclude=True)}
    check_unknown_options(Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys)))))
