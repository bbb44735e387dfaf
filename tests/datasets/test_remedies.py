"""Printed remedies work: after running one, the next try passes or reports another fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from cbam_det.datasets.validation.config import check_data
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..next_tries import run_command
from ..remedies import remedies
from .damaged_sets import coco, entry, swap, text, voc
from .test_bad_truth import corners, entry_for_each_box, twice
from .test_of_config import plain, write_config


def follow(message: str, cfg: Config) -> None:
    """Run the first remedy of a message, or apply its options to the config."""
    remedy = remedies(message)[0]
    cfg.merge_from_dict(run_command(remedy.command) if remedy.command else remedy.options)


def change(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        edit(content)
        (root / 'train.json').write_text(json.dumps(content))

    return write


def to_png(root: Path) -> None:
    for path in list((root / 'JPEGImages').iterdir()):
        path.rename(path.with_suffix('.png'))


def class_twice(root: Path) -> None:
    """Add a second category of the same name, which one box has."""
    content = json.loads((root / 'train.json').read_text())
    content['categories'].append(dict(id=3, name='cat'))
    content['annotations'][0]['category_id'] = 3
    (root / 'train.json').write_text(json.dumps(content))


# Faults of a set: layout, function that makes the fault, part of the first message.
FAULTS = {
    'an entry for each box': (coco, change(entry_for_each_box), 'like an earlier image'),
    'each box twice': (coco, change(twice), 'as an earlier annotation of its image'),
    'corners instead of sizes': (coco, change(corners), 'as x1, y1, x2, y2'),
    'a box of null': (coco, entry('annotations', 0, bbox=None), "lacks 'bbox'"),
    'a class twice': (coco, class_twice, "has name='cat', like an earlier category"),
    'an image without size': (coco, entry('images', 0, 'width'), "lacks 'width'"),
    'a missing image': (coco, lambda root: (root / 'train/one.jpg').unlink(), '(missing)'),
    'another letter case': (
        coco,
        lambda root: (root / 'train/one.jpg').rename(root / 'train/ONE.JPG'),
        'ONE.JPG exists',
    ),
    "Windows' name": (coco, entry('images', 0, file_name='.\\one.jpg'), 'one.jpg exists'),
    'PNG in VOC': (voc, to_png, 'one.png exists'),
    'PNG in VOC, letter case': (
        voc,
        lambda root: (root / 'JPEGImages/one.jpg').rename(root / 'JPEGImages/One.PNG'),
        'One.PNG exists',
    ),
    'names with endings': (
        voc,
        text(b'one.jpg\nnumber two \n', 'train.txt'),
        'is not an image name',
    ),
    'a name twice': (voc, text(b'one\nnumber two\none\n', 'train.txt'), 'is already listed'),
    'a missing XML': (voc, text(b'one\ngone\n', 'train.txt'), 'are missing'),
    'a box without area': (voc, swap('<xmax>25', '<xmax>5'), 'without area'),
    'a size of 0': (voc, swap('<width>48', '<width>0'), 'has a size of'),
}


def checked(cfg: Config) -> str:
    """The error message of the check before a training; '' if it passes."""
    try:
        check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    except InputError as error:
        return str(error)
    return ''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose name needs quotes in a shell and in MMEngine's options."""
    root = tmp_path / "My Drive/it's (a copy)"
    root.mkdir(parents=True)
    return root


@pytest.mark.parametrize(('layout', 'damage', 'first'), FAULTS.values(), ids=FAULTS)
def test_printed_remedy_of_a_fault_in_the_data_works(layout, damage, first, root):
    dataset = layout(root)
    sound = root.parent / 'sound'
    sound.mkdir()
    val = plain(layout(sound), test_mode=True)
    for path in sound.glob('*/*.jpg'):  # other bytes than the training's images
        path.write_bytes(path.read_bytes() + b'other')
    damage(root)
    path = write_config(root.parent / 'my config.py', plain(dataset), val)
    cfg = Config.fromfile(path)
    messages = [checked(cfg)]
    assert first in messages[0]
    while messages[-1]:
        assert len(messages) < 4
        follow(messages[-1], cfg)
        messages.append(checked(cfg))
        assert messages[-1] != messages[-2]


@pytest.mark.parametrize('ann_file', ['gone.json', 'other.json'])
def test_printed_remedy_of_an_evaluator_s_file_works(ann_file, root):
    dataset = coco(root)
    content = json.loads((root / 'train.json').read_text())
    (root / 'other.json').write_text(
        json.dumps(dict(content, annotations=content['annotations'][1:]))
    )
    evaluator = dict(type='CocoMetric', ann_file=str(root / ann_file), metric='bbox')
    val = plain(dataset, test_mode=True)
    cfg = Config.fromfile(
        write_config(
            *(root.parent / 'mine.py', plain(dataset), val),
            val_evaluator=evaluator,
            preflight=dict(allow_shared_images=True),
        )
    )
    message = checked(cfg)
    assert ann_file in message
    follow(message, cfg)
    assert checked(cfg) == ''
