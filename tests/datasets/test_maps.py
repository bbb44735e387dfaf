"""The semantic maps of a COCO set are there, and their values are classes of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

from cbam_det.datasets.validation.config import check_data
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from .damaged_sets import PACK, SIZE, coco

NAMES = ('one', 'number two')
HEAD = 'model.roi_head.semantic_head.num_classes'


@pytest.fixture
def dataset(tmp_path: Path) -> ConfigDict:
    """A set with a map of the values 0, 4 and 255 for each image."""
    init_default_scope('mmdet')
    (tmp_path / 'maps').mkdir()
    for name in NAMES:
        write_map(tmp_path, name, 4)
    load = dict(type='LoadAnnotations', with_bbox=True, with_seg=True)
    data = coco(tmp_path)
    data.data_prefix.seg = 'maps/'
    data.pipeline = [dict(type='LoadImageFromFile'), load, PACK]
    return data


def write_map(root: Path, name: str, largest: int, channels: tuple = ()) -> None:
    values = np.zeros((*SIZE[::-1], *channels), np.uint8)
    values[:9], values[20:] = largest, 255
    Image.fromarray(values).save(root / f'maps/{name}.png')


def check(dataset: ConfigDict, classes: int = 5, **options: object) -> None:
    head = dict(type='FusedSemanticHead', num_classes=classes, **options)
    model = dict(type='HybridTaskCascade', roi_head=dict(semantic_head=head))
    cfg = Config(dict(model=model, train_dataloader=dict(dataset=dataset)))
    check_data(RunConfig.from_cfg(cfg), ('train',))


def refused(*args: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        check(*args, **options)
    return str(caught.value)


def test_missing_maps_and_folders_are_named_before_the_run(dataset, tmp_path):
    check(dataset)
    (tmp_path / 'maps/number two.png').unlink()
    message = refused(dataset)
    assert message.startswith('1 of 2 semantic maps of ')
    assert 'train_dataloader.dataset.data_prefix.seg' in message
    dataset.seg_map_suffix = '_labels.png'
    assert 'maps/one_labels.png' in refused(dataset)
    dataset.data_prefix.seg = 'nowhere/'
    assert refused(dataset).startswith(f'no folder {tmp_path}/nowhere, where the semantic maps')


def test_value_that_is_no_class_is_named_with_the_number_of_classes(dataset, tmp_path):
    message = refused(dataset, 4)
    assert message.startswith(f'{HEAD}=4, but the semantic map {tmp_path}/maps/one.png has')
    assert f'the value 4; give --cfg-options {HEAD}=5' in message
    check(dataset, 5)
    write_map(tmp_path, 'one', 90)
    assert f'--cfg-options {HEAD}=91' in refused(dataset, 5)
    assert 'the value 255' in refused(dataset, 91, ignore_label=90)
    dataset.pipeline[1].reduce_zero_label = True
    check(dataset, 90)


def test_colour_picture_is_no_map(dataset, tmp_path):
    write_map(tmp_path, 'one', 4, (3,))
    assert 'maps/one.png has 3 channels; save it as an image of one channel' in refused(dataset)
    (tmp_path / 'maps/one.png').write_bytes(b'')
    assert 'maps/one.png cannot be decoded' in refused(dataset)


def test_images_without_objects_that_mmdet_leaves_out_need_no_map(dataset, tmp_path):
    content = json.loads((tmp_path / 'train.json').read_text())
    content['annotations'] = content['annotations'][:2]
    (tmp_path / 'train.json').write_text(json.dumps(content))
    (tmp_path / 'maps/number two.png').unlink()
    check(dataset)
    dataset.filter_cfg.filter_empty_gt = False
    assert '1 of 2 semantic maps' in refused(dataset)


def test_set_without_a_folder_of_images_is_named(dataset):
    """mmdet ends in KeyError: 'img'."""
    del dataset.data_prefix['img']
    message = refused(dataset)
    assert message.startswith('train_dataloader.dataset.data_prefix has no img, the folder of the')
    assert message.endswith('; give --cfg-options train_dataloader.dataset.data_prefix.img=train/')
