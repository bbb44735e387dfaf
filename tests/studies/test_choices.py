"""What a study of one's own data is trained with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.image import rescale_size
from mmdet.datasets.transforms import Resize
from mmengine.config import Config

from cbam_det.datasets.layouts.sets import Sets
from cbam_det.studies.choices import DETECTORS, Choices, Facts, choose
from cbam_det.studies.write_project import write_files
from cbam_det.utils.errors import InputError


def facts(
    images: int = 205,
    side: float = 80,
    image: float = 640,
    gpu: float | None = None,
    spread: int = 20,
) -> Facts:
    return Facts(images, [side] * spread, [(image, image * 9 / 16)] * images, gpu)


def chosen(values: Facts, **given: object) -> Choices:
    return choose(values, given)


def test_detector_is_one_that_the_machine_can_train():
    assert chosen(facts()).detector == 'retinanet_mobilenetv2'
    assert chosen(facts(gpu=24)).detector == 'faster_rcnn_r50'


@pytest.mark.parametrize(
    ('values', 'size'),
    [
        (facts(), (320, 320)),
        (facts(side=20), (512, 512)),  # 16 pixels of 640 * 16 / 20
        (facts(side=2), (640, 640)),
        (facts(side=20, image=96), (320, 320)),
        (facts(gpu=24), (1280, 768)),  # no image becomes more than twice as large
        (facts(gpu=24, image=4000, side=200), (1333, 800)),
        (facts(gpu=24, image=4000, side=10), (2000, 1200)),
    ],
)
def test_size_is_the_smallest_at_which_nine_of_ten_objects_have_16_pixels(values, size):
    choices = chosen(values)
    assert choices.size == size
    _, scale = rescale_size(values.image_sizes[0], size, return_scale=True)
    shown = f'9 of 10 objects then have sides of {values.object_side * scale:.0f} pixels or more'
    assert shown in choices.reasons['size']


@pytest.mark.parametrize('image', [(1024, 1024), (1600, 1200), (1200, 1600), (1920, 1080)])
@pytest.mark.parametrize('size', [None, (1280, 768), (768, 1280), (640, 640)])
@pytest.mark.parametrize('gpu', [None, 24])
def test_objects_are_scaled_by_both_limits_as_by_mmdet_s_resize(image, size, gpu):
    values = Facts(205, [20.0] * 20, [image] * 205, gpu)
    choices = chosen(values, size=size)
    results = dict(img=np.zeros((image[1], image[0], 1), np.uint8))
    resized = Resize(scale=choices.size, keep_ratio=True).transform(results)
    shown = 20 * resized['scale_factor'][0]
    assert f'have sides of {shown:.0f} pixels or more' in choices.reasons['anchor']
    assert choices.anchor == (32 if shown >= 23 else 16)
    if gpu and size is None:
        assert shown >= 15.9


def test_small_objects_of_few_are_not_smaller_than_the_smallest():
    assert Facts(1, [50.0, 60.0, 70.0], [(640, 480)], None).object_side == 52


def test_crowds_are_not_counted_and_a_training_of_nothing_else_is_refused():
    box = dict(image_id=1, bbox=[0, 0, 40, 40], iscrowd=0)
    crowd = dict(image_id=2, bbox=[0, 0, 4, 4], iscrowd=1)
    train = dict(images=[dict(width=64, height=48)], annotations=[box, crowd])
    assert (Facts.of(train).images, Facts.of(train).sides) == (1, [40])
    with pytest.raises(InputError, match='all objects of the training images are crowd'):
        Facts.of(dict(train, annotations=[crowd]))


@pytest.mark.parametrize(
    ('memory', 'batch', 'rate'), [(8, 2, 0.0025), (24, 8, 0.01), (80, 16, 0.02)]
)
def test_gpu_s_memory_decides_the_batch_of_resnet50_at_mmdet_s_size(
    memory, batch, rate, monkeypatch, tmp_path
):
    properties = SimpleNamespace(total_memory=memory * 2**30)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: properties)
    images = [dict(width=1600, height=1200)] * 200
    boxes = [dict(image_id=n, bbox=[0, 0, 300, 300], iscrowd=0) for n in range(200)]
    choices = chosen(Facts.of(dict(images=images, annotations=boxes)))
    assert (choices.detector, choices.size) == ('faster_rcnn_r50', (1333, 800))
    assert (choices.batch_size, choices.lr) == (batch, rate)
    sets = Sets(
        Path('/data'),
        'COCO',
        ('cat',),
        dict(train=dict(images=[], annotations=boxes), val=dict(images=images)),
    )
    write_files(tmp_path / 'out', 'cats', sets, choices)
    cfg = Config.fromfile(tmp_path / 'out' / 'cbam.py')
    assert cfg.model.backbone.depth == 50 and cfg.optim_wrapper.optimizer.type == 'SGD'
    assert cfg.optim_wrapper.optimizer.lr == rate and cfg.train_dataloader.batch_size == batch
    assert [step.scale for step in cfg.train_dataloader.dataset.pipeline if 'scale' in step] == [
        (1333, 800)
    ]


def test_anchors_are_halved_for_objects_that_the_smallest_does_not_take():
    assert [chosen(facts(side=side)).anchor for side in (80, 20)] == [32, 16]


@pytest.mark.parametrize(
    ('values', 'batch', 'rate'),
    [
        (facts(), 8, 5e-4),
        (facts(images=10), 2, 2.5e-4),  # AdamW: by the square root
        (facts(images=1), 1, 1.8e-4),
        (facts(gpu=80, image=2000, side=200), 16, 0.02),
        (facts(gpu=12, image=2000, side=200), 4, 0.005),  # SGD: in proportion
        (facts(gpu=1, image=2000, side=200), 1, 0.0013),
    ],
)
def test_batch_fits_the_machine_and_the_images_and_the_rate_is_scaled_to_it(values, batch, rate):
    choices = chosen(values)
    assert (choices.batch_size, choices.lr) == (batch, rate)


@pytest.mark.parametrize(('images', 'steps'), [(3, 3), (7, 7), (9, 5), (10, 5), (12, 4)])
def test_steps_of_a_small_set_are_the_same_in_the_reasons_for_batch_and_epochs(images, steps):
    reasons = chosen(facts(images=images)).reasons
    assert reasons['batch_size'] == f'only {images} images have objects: {steps} steps per epoch'
    assert f'{images} images with objects, {steps} steps per epoch' in reasons['epochs']


@pytest.mark.parametrize(
    ('images', 'gpu', 'epochs', 'reason'),
    [
        (12, None, 100, 'at most 100 epochs'),
        (205, None, 24, '8 epochs would be less than 600 steps'),
        (2500, None, 8, '313 steps per epoch'),
        (118_000, None, 1, '8 epochs would be more than 5,000 steps'),
        (5000, 80, 12, '313 steps per epoch'),
        (118_000, 80, 12, '7,375 steps per epoch'),
    ],
)
def test_epochs_are_by_the_number_of_images(images, gpu, epochs, reason):
    choices = chosen(facts(images=images, gpu=gpu))
    assert choices.epochs == epochs and choices.reasons['epochs'].endswith(reason)


def test_what_is_given_is_taken_and_the_rest_follows_it():
    given = dict(detector='faster_rcnn_r18', size=(256, 192), anchor=24, batch_size=2, epochs=3)
    choices = chosen(facts(), **given)
    assert {name: getattr(choices, name) for name in given} == given
    assert choices.lr == 2.5e-4
    assert {name for name, reason in choices.reasons.items() if 'given' in reason} == {*given}
    assert choices.reasons['batch_size'] == 'given by --batch-size'


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (dict(detector='yolo'), f'--detector yolo is unknown; choose from {", ".join(DETECTORS)}'),
        (dict(batch_size=0), '--batch-size 0 cannot be used; give a number above 0'),
        (dict(lr=float('nan')), '--lr nan cannot be used'),
        (dict(epochs=-1), '--epochs -1 cannot be used'),
        (dict(size=(320, 10)), '--size 10 cannot be used; give 64 or more'),
    ],
)
def test_useless_value_is_refused(given, said):
    with pytest.raises(InputError, match=said.replace('(', r'\(')):
        chosen(facts(), **given)
