"""Faults of a data set are named with the file, the place in it and the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from cbam_det.datasets.validation import splits
from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIG, CONFIGS, SMALL
from ..datasets.one_set import check_dataset

VOC = CONFIGS / 'faster_rcnn_r50_cbam_digits_voc.py'
ANNOTATIONS = 'annotations/instances_train2017.json'


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    """A copy of the small set that a test may damage."""
    return Path(shutil.copytree(digits, tmp_path / 'digits'))


def change_json(change: Callable[[dict], object], split: str = 'train') -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        file = root / ANNOTATIONS.replace('train', split)
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def first_image(root: Path) -> Path:
    return root / 'train2017/000000000001.jpg'


COCO_FAULTS = {
    'no folder': (lambda root: shutil.rmtree(root), 'make it: python tools/make_digits.py'),
    'no annotation file': (lambda root: (root / ANNOTATIONS).unlink(), 'no annotation file'),
    'empty annotation file': (
        lambda root: (root / ANNOTATIONS).write_text(''),
        'is not valid JSON',
    ),
    'a list': (lambda root: (root / ANNOTATIONS).write_text('[]'), "lacks the list 'images'"),
    'another JSON': (
        lambda root: (root / ANNOTATIONS).write_text('{"images": []}'),
        "lacks the list 'annotations'",
    ),
    'an entry without a name': (
        change_json(lambda content: content['images'][0].pop('file_name')),
        "images[0] lacks 'file_name'",
    ),
    'no images listed': (change_json(lambda content: content['images'].clear()), 'lists no images'),
    'unknown category id': (
        change_json(lambda content: content['annotations'][0].update(category_id=77)),
        'annotations[0] has category_id=77',
    ),
    'names for images': (
        change_json(lambda content: content.update(images=['a.jpg'])),
        "lacks the list 'images'",
    ),
    'unknown image id': (
        change_json(lambda content: content['annotations'][1].update(image_id=999)),
        'annotations[1] has image_id=999',
    ),
    **{
        f'annotation without {key}': (
            change_json(lambda content, key=key: content['annotations'][0].pop(key)),
            f"annotations[0] lacks '{key}'",
        )
        for key in ('id', 'image_id', 'category_id', 'bbox', 'area')
    },
    'box of three numbers': (
        change_json(lambda content: content['annotations'][0].update(bbox=[1, 2, 3])),
        'bbox=[1, 2, 3], which is not four numbers',
    ),
    'box that is not finite': (
        change_json(lambda content: content['annotations'][0].update(bbox=[1, 2, float('nan'), 4])),
        'not four numbers',
    ),
    'no annotations': (
        change_json(lambda content: content['annotations'].clear()),
        'has no annotations',
    ),
    'val annotation without iscrowd': (
        change_json(lambda content: content['annotations'][0].pop('iscrowd'), 'val'),
        "annotations[0] lacks 'iscrowd'",
    ),
    'other categories': (
        change_json(lambda content: content['categories'][3].update(name='thee')),
        "no category 'three' (did you mean 'thee'?)",
    ),
    'missing image': (
        lambda root: first_image(root).unlink(),
        f'1 of {SMALL.train} images',
    ),
    'all images missing': (
        lambda root: [path.unlink() for path in (root / 'train2017').iterdir()],
        f'{SMALL.train} of {SMALL.train} images',
    ),
    'no folder of images': (
        lambda root: shutil.rmtree(root / 'train2017'),
        'train2017, where the images of',
    ),
    'empty image': (lambda root: first_image(root).write_bytes(b''), '000000000001.jpg (empty)'),
}


@pytest.mark.parametrize(('damage', 'words'), COCO_FAULTS.values(), ids=COCO_FAULTS)
def test_coco_fault_is_named(damage, words, copied):
    damage(copied)
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(copied))
    with pytest.raises(InputError) as caught:
        check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    message = str(caught.value)
    assert words in message
    assert str(copied) in message
    assert '\n' not in message


def xml(root: Path) -> Path:
    return root / 'VOCdevkit/VOC2007/Annotations/000000000001.xml'


def change_list(change: Callable[[str], str]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        file = root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt'
        file.write_text(change(file.read_text()))

    return damage


def change_xml(old: str, new: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        assert old in xml(root).read_text()
        xml(root).write_text(xml(root).read_text().replace(old, new))

    return damage


VOC_FAULTS = {
    'second column': (
        change_list(lambda text: text.replace('\n', ' 1\n')),
        "line 1: '000000000001 1' is not an image name",
    ),
    'blank line': (change_list(lambda text: f'{text}\n'), "line 13: '' is not an image name"),
    'object without a box': (change_xml('bndbox', 'box'), 'object 1 has no bndbox'),
    'object without a name': (change_xml('name>', 'class>'), 'object 1 has no name'),
    'box of words': (change_xml('<xmin>', '<xmin>left'), 'object 1 has no bndbox of four numbers'),
    'no list': (
        lambda root: (root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt').unlink(),
        'test.txt',
    ),
    'empty list': (
        lambda root: (root / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt').write_text('\n'),
        'lists no images',
    ),
    'no annotation': (lambda root: xml(root).unlink(), f'1 of {SMALL.train} annotations'),
    'broken annotation': (lambda root: xml(root).write_text('<annotation>'), 'is not valid XML'),
    'missing image': (
        lambda root: (root / 'VOCdevkit/VOC2007/JPEGImages/000000000001.jpg').unlink(),
        f'1 of {SMALL.train} images',
    ),
}


@pytest.mark.parametrize(('damage', 'words'), VOC_FAULTS.values(), ids=VOC_FAULTS)
def test_voc_fault_is_named(damage, words, copied):
    damage(copied)
    cfg = Config.fromfile(VOC)
    set_data_root(cfg, str(copied / 'VOCdevkit/VOC2007'))
    with pytest.raises(InputError, match=words):
        check_data(RunConfig.from_cfg(cfg), ('train', 'val'))


def test_voc_classes_of_another_set_are_named(copied):
    cfg = Config.fromfile(VOC)
    set_data_root(cfg, str(copied / 'VOCdevkit/VOC2007'))
    dataset = cfg.train_dataloader.dataset
    dataset.metainfo = dict(classes=('zero', 'cat'))
    with pytest.raises(InputError, match="no category 'cat'"):
        check_dataset(dataset)
    dataset.metainfo = dict(classes=('zero', 'one'))
    summary = str(check_dataset(dataset))
    assert 'classes ignored, as the config does not list them: ' in summary
    assert 'and 5 more' in summary


@pytest.mark.parametrize(
    ('config', 'kind', 'site'),
    [(CONFIG, 'CocoDataset', 'cocodataset'), (VOC, 'VOCDataset', 'host.robots.ox')],
)
def test_folder_of_somebody_s_own_data_is_to_be_corrected_not_fetched(config, kind, site):
    init_default_scope('mmdet')
    dataset = Config.fromfile(config).train_dataloader.dataset
    dataset.data_root = '/no/such'
    with pytest.raises(InputError, match="correct the data set's data_root, or give its folder"):
        check_dataset(dataset)
    dataset.update(type=kind, metainfo=None)  # COCO's or VOC's own classes
    with pytest.raises(InputError, match=f'download the data .{site}'):
        check_dataset(dataset)


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (
            'faster_rcnn_r50_cbam_voc07',
            'JPEGImages/ in its folder VOC2007); download the data .host',
        ),
        ('retinanet_mobilenetv2_cbam_bccd', 'clone github.com/Shenggan/BCCD_Dataset, and give'),
    ],
)
def test_missing_data_of_a_shipped_config_are_described_with_their_source(config, words, tmp_path):
    init_default_scope('mmdet')
    dataset = Config.fromfile(CONFIGS / f'{config}.py').train_dataloader.dataset
    dataset.data_root = str(tmp_path / Path(dataset.data_root).name)
    with pytest.raises(InputError, match=words.replace(')', '.')):
        check_dataset(dataset)


def test_full_check_finds_the_truncated_image_that_the_quick_one_passes(copied):
    first_image(copied).write_bytes(first_image(copied).read_bytes()[:900])
    dataset = Config.fromfile(CONFIG).train_dataloader.dataset
    dataset.data_root = str(copied)
    summary = check_dataset(dataset)
    assert (summary.images, len(summary.classes)) == (SMALL.train, 10)
    with pytest.raises(InputError, match=f'1 of {SMALL.train} images .*unreadable'):
        check_dataset(dataset, full=True)
    (copied / 'train2017/000000000002.jpg').write_text('<html>not found</html>')
    with pytest.raises(InputError, match=f'1 of {SMALL.train} images .*002.jpg .unreadable'):
        check_dataset(dataset)


def test_of_more_images_than_may_be_opened_only_a_part_is(copied, monkeypatch):
    """Of 12 images, every third."""
    dataset = Config.fromfile(CONFIG).train_dataloader.dataset
    dataset.data_root = str(copied)
    monkeypatch.setattr(splits, 'MOST_OPENED', 5)
    (note,) = check_dataset(dataset).notes
    assert note.startswith('the size of only one in 3 of 12 images was checked')
    other_size = Image.new('RGB', (20, 30))
    other_size.save(copied / 'train2017/000000000002.jpg')
    check_dataset(dataset)
    other_size.save(copied / 'train2017/000000000004.jpg')
    with pytest.raises(InputError, match=r'0004\.jpg is 20 x 30, but annotated as 96 x 96; '):
        check_dataset(dataset)


def test_evaluator_of_another_folder_is_named(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG)
    cfg.val_dataloader.dataset.data_root = str(digits)
    with pytest.raises(InputError, match=r"val_evaluator.ann_file='data/digits/annotations"):
        check_data(RunConfig.from_cfg(cfg), ('val',))


def test_data_root_with_several_roots_is_refused(digits):
    cfg = Config.fromfile(CONFIG)
    cfg.val_dataloader.dataset.data_root = 'elsewhere/'
    with pytest.raises(InputError, match='several data roots'):
        set_data_root(cfg, str(digits))


def test_data_root_replaces_only_whole_folders():
    cfg = Config.fromfile(CONFIG)
    cfg.train_dataloader.dataset.data_root = 'data/digits'  # the same folder as 'data/digits/'
    cfg.test_evaluator = dict(cfg.test_evaluator, ann_file='data/digits2/test.json')
    set_data_root(cfg, 'mine')
    assert {cfg[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val')} == {'mine/'}
    assert cfg.val_evaluator.ann_file.startswith('mine/annotations/')
    assert cfg.test_evaluator.ann_file == 'data/digits2/test.json'


def test_coco_config_without_data_shows_the_layout_and_the_embedded_set(run, tmp_path):
    done = run('train.py', CONFIGS / 'faster_rcnn_r50_cbam.py', cwd=tmp_path, status=2)
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f'error: no data folder data/coco below {tmp_path}')
    assert 'annotations/instances_train2017.json' in error
    assert 'faster_rcnn_r50_cbam_digits.py' in error
    assert 'Traceback' not in done.stderr
    assert list(tmp_path.iterdir()) == []
