"""The channels of the images are those of the backbone and of the data preprocessor."""

from __future__ import annotations

import copy
import shlex
from functools import cache

import pytest
from mmdet.models import DetDataPreprocessor
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cbam_det.datasets.validation.channels import check_channels
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options
from cbam_det.utils.split_config import Split

from ..conftest import CONFIG, CONFIGS

BACKBONE = 'model.backbone.in_channels'
GREY = {
    f'{split}_dataloader.dataset.pipeline.0.color_type': 'grayscale'
    for split in ('train', 'val', 'test')
}
TIFFFILE = {key.replace('color_type', 'imdecode_backend'): 'tifffile' for key in GREY}


read = cache(Config.fromfile)


class GreyToColour(DetDataPreprocessor):
    """A data preprocessor that may change the channels."""


def changed(options: dict, config: object = CONFIG) -> Config:
    init_default_scope('mmdet')
    cfg = copy.deepcopy(read(config))
    cfg.merge_from_dict(options)
    return cfg


def check(cfg: Config, *names: str) -> None:
    splits = [Split.from_cfg(cfg, name) for name in ('train', 'val', 'test')]
    check_channels(cfg, splits, names or ('train', 'val', 'test'))


def remedies(message: str) -> list[dict]:
    """The options of each `--cfg-options` of a message."""
    return [
        parse_options(shlex.split(words.removesuffix(', or ')))
        for words in message.split('--cfg-options ')[1:]
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {BACKBONE: 1},
            "train_dataloader.dataset.pipeline.0.color_type='color' loads images of 3 channels, "
            f'but {BACKBONE}=1; give ',
        ),
        (
            GREY,
            "train_dataloader.dataset.pipeline.0.color_type='grayscale' loads images of 1 "
            f'channels, but {BACKBONE}=3; give ',
        ),
        (
            {**GREY, BACKBONE: 1},
            'mean, std, bgr_to_rgb of model.data_preprocessor are for images of 3 channels',
        ),
        ({BACKBONE: 4}, f'but {BACKBONE}=4; give --cfg-options {BACKBONE}=3'),
        (dict(list(GREY.items())[:1]), f'loads images of 1 channels, but {BACKBONE}=3'),
    ],
)
def test_other_channels_are_named_and_each_remedy_leads_to_a_config_that_passes(options, message):
    cfg = changed(options)
    with pytest.raises(InputError) as caught:
        check(cfg)
    assert message in str(caught.value)
    for remedy in remedies(str(caught.value)):
        cfg = changed({**options, **remedy})
        for _ in range(2):  # the data preprocessor may follow the backbone
            try:
                check(cfg)
                break
            except InputError as error:
                cfg.merge_from_dict(remedies(str(error))[0])
        check(cfg)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'train_dataloader.dataset.pipeline.0.color_type': 'unchanged', BACKBONE: 1, **GREY}
        | {'model.data_preprocessor': dict(mean=[1], std=[2], bgr_to_rgb=False)},
        {'model.backbone.type': 'OfAnotherLibrary', 'model.backbone.base_type': None, **GREY}
        | {'model.data_preprocessor': dict(type='DetDataPreprocessor', _delete_=True)},
        {'model.data_preprocessor.mean': [100.0], 'model.data_preprocessor.std': [50.0]},
        {
            BACKBONE: 4,
            **{key.replace('color_type', 'imdecode_backend'): 'tifffile' for key in GREY},
        },
        {**GREY, 'model.data_preprocessor.type': GreyToColour},
    ],
    ids=[
        *('as shipped', 'grey everywhere', 'unknown backbone', 'one mean for three channels'),
        *('four channels of tifffile', 'data preprocessor of another library'),
    ],
)
def test_images_that_fit_or_cannot_be_known_pass(options):
    check(changed(options))


def test_training_on_grey_images_stops_no_test_on_colour_images():
    cfg = changed(dict(list(GREY.items())[:1]))
    check(cfg, 'test')
    with pytest.raises(InputError):
        check(cfg, 'train')


def test_shipped_detectors_take_colour_images():
    for name in ('ssd300_vgg16_cbam', 'rtmdet_tiny_cbam'):
        cfg = changed({}, CONFIGS / f'{name}.py')
        check(cfg)
        cfg.merge_from_dict(GREY)
        with pytest.raises(InputError, match=f'but {BACKBONE}=3; give .*color_type=color'):
            check(cfg)
