"""Weights and a model with different attention: our API refuses, mmdet's warns in one line."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint

from cbam_det.apis.inference import Predictor
from cbam_det.checkpoints.attention import frozen_stage_hint
from cbam_det.checkpoints.loading import check_checkpoint, trained_classes
from cbam_det.models.build import build_model
from cbam_det.utils.config import override, read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS
from ..remedies import remedies

LEAF = str(CONFIGS / 'retinanet_mobilenetv2_cbam_digits.py')


@pytest.fixture(scope='module')
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Config, Path]]:
    """A config and its weights, with the attention and without."""
    folder, made = tmp_path_factory.mktemp('weights'), {}
    for name in ('with', 'without'):
        cfg = read_config(LEAF, {'model.backbone.init_cfg': None})
        if name == 'without':
            del cfg.model.backbone['plugins']
        state = build_model(cfg).state_dict()
        meta = dict(dataset_meta=dict(classes=('one',), palette=[(0, 0, 0)]))
        torch.save(dict(state_dict=state, meta=meta), folder / f'{name}.pth')
        made[name] = cfg, folder / f'{name}.pth'
    return made


def warnings_of(call: Callable[[], object], caplog: pytest.LogCaptureFixture) -> list[str]:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        call()
    finally:
        logger.removeHandler(caplog.handler)
    return [row.getMessage() for row in caplog.records if row.levelno == logging.WARNING]


LOST = r'attention weights of the checkpoint are not loaded \(backbone'
ABSENT = r'the checkpoint lacks \d+ attention weights of the model \(backbone'


@pytest.mark.parametrize(
    ('api', 'config', 'weights', 'words'),
    [
        (init_detector, 'without', 'with', LOST),
        (DetInferencer, 'without', 'with', LOST),
        (init_detector, 'with', 'without', ABSENT),
        (DetInferencer, 'with', 'without', ABSENT),
        (init_detector, 'with', 'with', None),
        (init_detector, 'without', 'without', None),
    ],
)
def test_mmdet_s_api_warns_in_one_line(api, config, weights, words, detectors, caplog):
    cfg, path = detectors[config][0], detectors[weights][1]
    told = warnings_of(lambda: api(cfg, str(path), device='cpu'), caplog)
    lines = [line for line in told if 'attention' in line]
    assert len(lines) == (words is not None)
    assert all(re.search(words, line) and '\n' not in line for line in lines)


def test_classes_of_joined_sets_that_differed_are_the_first_one_s():
    metas = [dict(classes=('cat', 'dog'), palette=[(0, 0, 0)] * 2), dict(classes=('cat', 'dog'))]
    assert trained_classes(dict(meta=dict(dataset_meta=metas))) == ('cat', 'dog')
    assert trained_classes(dict(meta=dict(dataset_meta=dict(CLASSES=('cat',))))) == ('cat',)
    assert trained_classes({}) == ()


@pytest.mark.parametrize(
    ('config', 'weights', 'words'),
    [
        ('without', 'with', 'weights unknown to the model .*the config that the checkpoint was'),
        ('with', 'without', 'weights missing in the file .*the config that the checkpoint was'),
    ],
)
def test_predictor_refuses(config, weights, words, detectors):
    with pytest.raises(InputError, match=words):
        Predictor(detectors[config][0], str(detectors[weights][1]))


def test_backbone_that_starts_from_weights_without_attention_is_no_warning(detectors, caplog):
    cfg, path = detectors['with'][0], detectors['without'][1]
    backbone = build_model(cfg).backbone
    assert any('inserted' in key for key in backbone.state_dict())
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    told = warnings_of(backbone.init_weights, caplog)
    assert not [line for line in told if 'attention' in line]


def test_wrapped_detector_is_compared_without_its_wrapper(detectors, caplog):
    cfg, path = detectors['with']
    model = MODELS.build(dict(type='DetTTAModel', tta_cfg=None, module=cfg.model))
    told = warnings_of(lambda: load_checkpoint(model, str(path)), caplog)
    assert not [line for line in told if 'attention' in line]
    told = warnings_of(lambda: load_checkpoint(model, str(detectors['without'][1])), caplog)
    (line,) = [line for line in told if 'attention' in line]
    assert re.search(ABSENT, line)


def test_printed_option_for_attention_of_frozen_stages_makes_the_weights_fit(tmp_path):
    cfg = read_config(str(CONFIGS / 'retinanet_r18_cbam.py'))
    path = str(tmp_path / 'every_block.pth')
    stages = {'model.backbone.plugins.0.stages': (True, True, True, True)}
    every = build_model(override(copy.deepcopy(cfg), stages))
    torch.save(dict(state_dict=every.state_dict()), path)
    for whole in (True, False):
        with pytest.raises(InputError, match='for the attention of frozen stages add') as caught:
            check_checkpoint(path, 'checkpoint', build_model(cfg), whole)
        (options,) = [remedy.options for remedy in remedies(str(caught.value)) if remedy.options]
        assert options == stages
    check_checkpoint(path, 'checkpoint', build_model(override(cfg, options)))


def test_config_without_plugins_gets_no_option_for_attention_of_frozen_stages():
    model = build_model(read_config(str(CONFIGS / 'retinanet_r18.py')))
    key = 'backbone.inserted.layer1/0/bn2.cbam.channel_gate.fc1.weight'
    assert frozen_stage_hint([key], model) == ''
