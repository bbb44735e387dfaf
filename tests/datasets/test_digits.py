"""The embedded data set: its content, its completeness, and the equality of both layouts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools.coco import COCO

from cbam_det.datasets import digits as module
from cbam_det.datasets.digits import CLASSES, LARGEST, SMALLEST, Digits, Painter, make
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS, SMALL


def fingerprint(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob('*'))
        if file.is_file()
    }


def built(config: str, root: Path, split: str):
    """Build the data set of a shipped config on another root."""
    from mmdet.registry import DATASETS

    cfg = Config.fromfile(CONFIGS / '_base_/datasets' / config)[f'{split}_dataloader'].dataset
    cfg.data_root = str(root)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(digits, tmp_path):
    make(tmp_path / 'again', SMALL)
    assert fingerprint(tmp_path / 'again') == fingerprint(digits)
    other = Painter(Digits(seed=4), 'train').scene(0).image
    assert not np.array_equal(other, Painter(Digits(seed=3), 'train').scene(0).image)


def test_both_layouts_are_complete(digits):
    voc = digits / 'VOCdevkit' / 'VOC2007'
    for split, names, count in (
        ('train', ('train', 'trainval'), SMALL.train),
        ('val', ('val', 'test'), SMALL.val),
    ):
        content = json.loads((digits / f'annotations/instances_{split}2017.json').read_bytes())
        assert len(content['images']) == count
        assert [category['name'] for category in content['categories']] == list(CLASSES)
        for image in content['images']:
            with Image.open(digits / f'{split}2017' / image['file_name']) as picture:
                assert picture.size == (image['width'], image['height']) == (SMALL.size,) * 2
        stems = [Path(image['file_name']).stem for image in content['images']]
        for name in names:
            assert (voc / f'ImageSets/Main/{name}.txt').read_text().split() == stems
        for stem in stems:
            assert (voc / f'JPEGImages/{stem}.jpg').is_file()
            assert (voc / f'Annotations/{stem}.xml').is_file()


def test_both_layouts_have_the_same_ground_truth(digits):
    """mmdet reads VOC's inclusive xmax as xmax - 1, which is one less than COCO's edge."""
    for split in ('train', 'val'):
        coco = built('digits.py', digits, split)
        voc = built('digits_voc.py', digits / 'VOCdevkit/VOC2007', split)
        assert len(coco) == len(voc) == getattr(SMALL, split)
        assert coco.metainfo['classes'] == voc.metainfo['classes'] == CLASSES
        for index in range(len(coco)):
            ours, theirs = coco.get_data_info(index), voc.get_data_info(index)
            assert Path(ours['img_path']).read_bytes() == Path(theirs['img_path']).read_bytes()
            edge = np.array([0, 0, 1, 1])
            assert [(item['bbox_label'], list(item['bbox'])) for item in ours['instances']] == [
                (item['bbox_label'], list(np.array(item['bbox']) + edge))
                for item in theirs['instances']
            ]


def test_objects_are_digits_of_all_classes_and_sizes_inside_the_image():
    spec = Digits()
    sizes, labels = [], []
    for split in ('train', 'val'):
        painter = Painter(spec, split)
        for index in range(150):
            scene = painter.scene(index)
            assert 1 <= len(scene.boxes) <= 6
            labels += scene.labels
            for x, y, width, height in scene.boxes:
                assert x >= 0 and y >= 0 and x + width <= spec.size and y + height <= spec.size
                sizes.append(max(width, height))
    assert set(labels) == set(range(10))
    assert min(sizes) <= SMALLEST + 2
    assert max(sizes) >= LARGEST - 4
    # Cropping to the visible pixels can make a digit a pixel or two smaller.
    assert min(sizes) >= SMALLEST - 3 and max(sizes) <= LARGEST


def test_train_and_val_share_no_digit():
    train, val = Painter(SMALL, 'train').digit_ids, Painter(SMALL, 'val').digit_ids
    assert not set(train) & set(val)
    assert len(train) + len(val) == 1797


def test_boxes_are_tight_around_what_is_drawn():
    """Without clutter and exposure, a scene differs from its background only in its boxes."""
    painter = Painter(SMALL, 'train')
    background = np.full((SMALL.size, SMALL.size, 3), 100, np.float32)
    painter._background = lambda rng: background.copy()
    painter._clutter = lambda rng, image: None
    painter._exposure = lambda rng, image: image
    scene = painter.scene(5)
    changed = np.abs(scene.image - background).sum(2) > 0
    inside = np.zeros_like(changed)
    for x, y, width, height in scene.boxes:
        inside[y : y + height, x : x + width] = True
        for edge in (
            changed[y, x : x + width],
            changed[y + height - 1, x : x + width],
            changed[y : y + height, x],
            changed[y : y + height, x + width - 1],
        ):
            assert edge.any()
    assert not (changed & ~inside).any()


def test_pycocotools_reads_areas_and_categories(digits):
    coco = COCO(digits / 'annotations/instances_val2017.json')
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert annotation['area'] == annotation['bbox'][2] * annotation['bbox'][3]
        assert coco.loadCats(annotation['category_id'])[0]['name'] in CLASSES


def test_existing_set_is_not_changed_and_other_options_are_rejected(digits):
    before = fingerprint(digits)
    assert make(digits, SMALL) is False
    with pytest.raises(InputError, match='has digits with train=12, not with train=13; '):
        make(digits, Digits(train=13, val=5, size=96, seed=3))
    assert fingerprint(digits) == before


def test_folder_with_other_files_is_rejected_and_not_changed(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='give another folder'):
        make(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_interrupted_call_leaves_no_incomplete_set(tmp_path, monkeypatch):
    paint = Painter.scene

    def interrupted(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return paint(self, index)

    monkeypatch.setattr(Painter, 'scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'digits', SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Painter, 'scene', paint)
    killed = tmp_path / '.digits.partial'  # what a killed process would leave
    killed.mkdir()
    (killed / 'rubbish').write_text('')
    assert make(tmp_path / 'digits', SMALL) is True
    assert [path.name for path in tmp_path.iterdir()] == ['digits']
    assert not (tmp_path / 'digits' / 'rubbish').exists()


def test_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError('no links')

    monkeypatch.setattr(module.os, 'link', refuse)
    make(tmp_path / 'digits', Digits(train=1, val=1, size=64))
    assert len(list((tmp_path / 'digits/VOCdevkit/VOC2007/JPEGImages').iterdir())) == 2


@pytest.mark.parametrize('wrong', [dict(train=0), dict(val=-1), dict(size=32), dict(seed=-1)])
def test_invalid_option_is_named(wrong):
    with pytest.raises(InputError, match=f'{next(iter(wrong))}='):
        Digits(**wrong)


def test_link_to_an_empty_folder_stays_and_the_set_is_written_to_its_target(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'digits').symlink_to(tmp_path / 'disk')
    assert make(tmp_path / 'digits', Digits(train=1, val=1, size=64)) is True
    assert (tmp_path / 'digits').is_symlink() and (tmp_path / 'disk/annotations').is_dir()


def test_mount_point_is_rejected_before_the_painting(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os.path, 'ismount', lambda path: path == tmp_path)
    monkeypatch.setattr(module, '_write_split', None)
    with pytest.raises(InputError, match=f'^{tmp_path} is a mount point, .*give {tmp_path}/digits'):
        make(tmp_path, SMALL)
