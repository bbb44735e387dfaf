"""A remedy works as it is printed: it is run, and the next try passes or names another fault."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from cbam_det.datasets.validation.config import check_data
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options
from cbam_det.utils.run_config import RunConfig

from ..conftest import in_process
from .damaged_sets import coco, entry, swap, text, voc
from .test_bad_truth import corners, entry_for_each_box, twice
from .test_of_config import plain, printed_options, write_config


def run_remedy(message: str, cfg: Config, capsys: pytest.CaptureFixture) -> None:
    """Do what a message says: run its command for a tool or a shell, or give its options."""
    loop = re.search(r'(for f in .*; done|ln -s .*)$', message)
    command = re.search(r'python (\S*check_data\.py .*?--fix)', message)
    if loop:
        subprocess.run(['sh', '-c', loop[0]], check=True, cwd='/')
    elif command:
        status = in_process('check_data')(*shlex.split(command[1])[1:])
        said = capsys.readouterr()
        if status == 2:
            run_remedy(said.err.strip(), cfg, capsys)
        for pairs in printed_options(said.out):
            cfg.merge_from_dict(parse_options(pairs))
    else:
        pairs = []
        for word in shlex.split(message.partition('--cfg-options ')[2]):
            if not re.match(r'[\w.]+=', word):
                break
            pairs.append(word)
        assert pairs, f'no remedy that can be run: {message}'
        cfg.merge_from_dict(parse_options(pairs))


def change(made: Callable[[dict], object]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        made(content)
        (root / 'train.json').write_text(json.dumps(content))

    return write


def to_png(root: Path) -> None:
    for path in list((root / 'JPEGImages').iterdir()):
        path.rename(path.with_suffix('.png'))


def class_twice(root: Path) -> None:
    """Under an id of its own, which one box has."""
    content = json.loads((root / 'train.json').read_text())
    content['categories'].append(dict(id=3, name='cat'))
    content['annotations'][0]['category_id'] = 3
    (root / 'train.json').write_text(json.dumps(content))


# What goes wrong in a set, and words of what is said first.
FAULTS = {
    'an entry for each box': (coco, change(entry_for_each_box), 'as an earlier one has'),
    'each box twice': (coco, change(twice), 'of an earlier one of its image'),
    'corners for sizes': (coco, change(corners), 'as x1, y1, x2, y2'),
    'a box of null': (coco, entry('annotations', 0, bbox=None), "lacks 'bbox'"),
    'a class twice': (coco, class_twice, "has name='cat', which an earlier one has"),
    'an image without size': (coco, entry('images', 0, 'width'), "lacks 'width'"),
    'a missing image': (coco, lambda root: (root / 'train/one.jpg').unlink(), '(missing)'),
    'another letter case': (
        coco,
        lambda root: (root / 'train/one.jpg').rename(root / 'train/ONE.JPG'),
        'ONE.JPG is there',
    ),
    "Windows' name": (coco, entry('images', 0, file_name='.\\one.jpg'), 'one.jpg is there'),
    'PNG in VOC': (voc, to_png, 'one.png is there'),
    'PNG in VOC, letter case': (
        voc,
        lambda root: (root / 'JPEGImages/one.jpg').rename(root / 'JPEGImages/One.PNG'),
        'One.PNG is there',
    ),
    'names with endings': (voc, text(b'one.jpg\nnumber two \n', 'train.txt'), 'is no image name'),
    'a name twice': (voc, text(b'one\nnumber two\none\n', 'train.txt'), 'is listed before'),
    'a missing XML': (voc, text(b'one\ngone\n', 'train.txt'), 'are missing'),
    'a box without area': (voc, swap('<xmax>25', '<xmax>5'), 'without area'),
    'a size of 0': (voc, swap('<width>48', '<width>0'), 'has a size of'),
}


def tried(cfg: Config) -> str:
    """What the check before a training says, '' where nothing."""
    try:
        check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    except InputError as error:
        return str(error)
    return ''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose name a shell and MMEngine's own parser of options would break."""
    root = tmp_path / "My Drive/it's (a copy)"
    root.mkdir(parents=True)
    return root


@pytest.mark.parametrize(('layout', 'damage', 'first'), FAULTS.values(), ids=FAULTS)
def test_printed_remedy_of_a_fault_in_the_data_works(layout, damage, first, root, capsys):
    dataset = layout(root)
    sound = root.parent / 'sound'
    sound.mkdir()
    val = plain(layout(sound), test_mode=True)
    for path in sound.glob('*/*.jpg'):  # other pictures
        path.write_bytes(path.read_bytes() + b'other')
    damage(root)
    path = write_config(root.parent / 'my config.py', plain(dataset), val)
    cfg = Config.fromfile(path)
    said = [tried(cfg)]
    assert first in said[0]
    while said[-1]:
        assert len(said) < 4
        run_remedy(said[-1], cfg, capsys)
        said.append(tried(cfg))
        assert said[-1] != said[-2]


@pytest.mark.parametrize('ann_file', ['gone.json', 'other.json'])
def test_printed_remedy_of_an_evaluator_s_file_works(ann_file, root, capsys):
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
    message = tried(cfg)
    assert ann_file in message
    run_remedy(message, cfg, capsys)
    assert tried(cfg) == ''
