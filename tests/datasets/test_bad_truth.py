"""Wrong ground truth that mmdet reads silently: runs and check_data report it, `--fix` keeps it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

from cbam_det.datasets.validation.clean import clean, config_options, write_clean
from cbam_det.datasets.validation.folder import examine
from cbam_det.datasets.validation.images import decode, header_size, shown_and_stored_size
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from .damaged_sets import PACK, SIZE, coco, sideways, voc
from .one_set import check_dataset


def entry_for_each_box(content: dict) -> None:
    """An image entry for each box, as converters from CSV files write them."""
    images = {image['id']: image for image in content['images']}
    content['images'] = [
        dict(images[box['image_id']], id=box['id']) for box in content['annotations']
    ]
    for box in content['annotations']:
        box['image_id'] = box['id']


def twice(content: dict) -> None:
    boxes = content['annotations']
    content['annotations'] = boxes + [dict(box, id=box['id'] + len(boxes)) for box in boxes]


def corners(content: dict) -> None:
    boxes = [[5, 6, 25, 30], [20, 1, 47, 40], [12, 21, 44, 39], [8, 9, 46, 38]]
    for annotation, box in zip(content['annotations'], boxes, strict=True):
        annotation.update(bbox=box, area=box[2] * box[3])


def in_0_1(content: dict) -> None:
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['bbox'] = [x / SIZE[0], y / SIZE[1], w / SIZE[0], h / SIZE[1]]


def empty(content: dict) -> None:
    content['annotations'] = []


def crowds(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1


def changed(root: Path, change: Callable[[dict], object]) -> ConfigDict:
    init_default_scope('mmdet')
    dataset = coco(root)
    content = json.loads((root / 'train.json').read_text())
    change(content)
    (root / 'train.json').write_text(json.dumps(content))
    return dataset


@pytest.mark.parametrize(
    ('change', 'message', 'box'),
    [
        (entry_for_each_box, "has file_name='one.jpg', like an earlier image", None),
        (twice, 'has the same class and box .* as an earlier annotation', None),
        (corners, '3 extend beyond their image .* but 3 of these fit', [5, 6, 20, 24]),
    ],
    ids=['an entry for each box', 'each box twice', 'corners instead of sizes'],
)
def test_faults_that_stop_a_run_are_harmful_in_check_data_and_fix_keeps_every_image_and_box(
    change, message, box, tmp_path
):
    dataset = changed(tmp_path, change)
    with pytest.raises(InputError, match=message):
        check_dataset(dataset)
    check = in_process('check_data')
    assert check(tmp_path) == 1
    assert check(tmp_path, '--fix') == 0
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert len(made['images']) == 2 and len(made['annotations']) == 4
    assert [annotation['image_id'] for annotation in made['annotations']] in (
        [1, 1, 2, 2],
        [1, 1, 3, 3],
    )
    first = made['annotations'][0]
    assert first['bbox'] == (box or [5, 6, 20, 24])
    if box:
        assert first['area'] == 20 * 24
    dataset.ann_file = 'train_clean.json'
    assert str(check_dataset(dataset)).endswith('2 images, 4 objects, 2 classes')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (in_0_1, 'has 4 boxes with all values from 0 to 1'),
        (empty, 'has no annotations'),
        (crowds, 'has 4 annotations, but all are crowd'),
    ],
)
def test_faults_that_only_the_user_can_correct_stop_the_run_check_data_and_fix(
    change, message, tmp_path, capsys
):
    dataset = changed(tmp_path, change)
    with pytest.raises(InputError, match=message):
        check_dataset(dataset)
    check = in_process('check_data')
    assert check(tmp_path) == 1
    output = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert message in output and '--fix' not in output
    assert check(tmp_path, '--fix') == 2
    assert message in capsys.readouterr().err


def test_a_few_repeated_boxes_among_many_are_only_counted(tmp_path):
    def many(content: dict) -> None:
        box = content['annotations'][0]
        content['annotations'] = [
            dict(box, id=n + 1, bbox=[n % 20, n // 20 % 20, 5 + n // 400, 9]) for n in range(150)
        ]
        content['annotations'][-1]['bbox'] = content['annotations'][0]['bbox']

    dataset = changed(tmp_path, many)
    assert 'box twice: 1' in str(check_dataset(dataset))


def test_fix_renumbers_annotation_id_0_although_it_is_not_harmful(tmp_path):
    def from_0(content: dict) -> None:
        for annotation in content['annotations']:
            annotation['id'] -= 1

    changed(tmp_path, from_0)
    assert in_process('check_data')(tmp_path, '--fix') == 0
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert sorted(annotation['id'] for annotation in made['annotations']) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ('first', 'second', 'harmful'),
    [
        ('train/_annotations.coco.json', 'valid/_annotations.coco.json', True),
        ('annotations/instances_Train.json', 'annotations/instances_Test.json', True),
        ('annotations/a.json', 'annotations/b.json', True),
        ('annotations/val.json', 'annotations/test.json', False),  # one set for both
        ('annotations/val.json', 'annotations/val_mini.json', False),  # a part of it
    ],
)
def test_image_in_two_splits_of_any_name_is_harmful(first, second, harmful, tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    coco(source)
    content = json.loads((source / 'train.json').read_text())
    root = tmp_path / 'set'
    for file, prefix in ((root / first, ''), (root / second, 'Copy of ')):
        file.parent.mkdir(parents=True, exist_ok=True)
        names = [image['file_name'] for image in content['images']]
        images = [dict(image, file_name=prefix + image['file_name']) for image in content['images']]
        for name in names:
            shutil.copy(source / 'train' / name, file.parent / f'{prefix}{name}')
        file.write_text(json.dumps(dict(content, images=images)))
    splits = examine(root, progress=False)
    assert len({split.name for split in splits}) == 2
    assert [fault.harmful for fault in splits[0].content.faults] == [harmful] * 2


def test_image_in_training_and_validation_is_still_harmful_after_fix(tmp_path, capsys):
    """Only the user knows which split it belongs to; fix corrects the other faults."""
    source = tmp_path / 'source'
    source.mkdir()
    coco(source)
    content = json.loads((source / 'train.json').read_text())
    twice(content)
    root = tmp_path / 'set'
    for split in ('train', 'valid'):
        shutil.copytree(source / 'train', root / split)
        (root / split / '_annotations.coco.json').write_text(json.dumps(content))
    assert in_process('check_data')(root, '--fix') == 1
    assert 'same image in two splits' in capsys.readouterr().out
    for split in ('train', 'valid'):
        made = json.loads((root / split / '_annotations.coco_clean.json').read_text())
        assert len(made['images']) == 2 and len(made['annotations']) == 4


def test_copies_of_an_image_with_the_same_boxes_stop_no_training(tmp_path):
    """Users copy images of rare classes, so that they are trained more often."""
    dataset = changed(tmp_path, lambda content: None)
    content = json.loads((tmp_path / 'train.json').read_text())
    shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train/copy.jpg')
    first = content['images'][0]
    boxes = [box for box in content['annotations'] if box['image_id'] == first['id']]
    content['images'].append(dict(first, id=99, file_name='copy.jpg'))
    copies = [dict(box, id=90 + number, image_id=99) for number, box in enumerate(boxes)]
    for kept in (copies, copies[1:]):
        annotations = content['annotations'] + kept
        (tmp_path / 'train.json').write_text(json.dumps(dict(content, annotations=annotations)))
        if kept == copies:
            assert check_dataset(dataset).images == 3
        else:
            with pytest.raises(InputError, match=r'copy\.jpg is the same image as'):
                check_dataset(dataset)


@pytest.mark.parametrize('second', ['test.json', 'val2.json'])
def test_images_in_two_evaluated_splits_are_harmful_if_the_splits_differ(second, tmp_path):
    coco(tmp_path)
    content = json.loads((tmp_path / 'train.json').read_text())
    (tmp_path / 'train.json').unlink()
    shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train/other.jpg')
    path = tmp_path / 'train/other.jpg'
    for file, names in (('val.json', ('one', 'number two')), (second, ('number two', 'other'))):
        images = [
            dict(content['images'][0], id=number, file_name=f'{name}.jpg')
            for number, name in enumerate(names, 1)
        ]
        (tmp_path / file).write_text(json.dumps(dict(content, images=images)))
    path.write_bytes(path.read_bytes() + b'other')
    (tmp_path / 'train').rename(tmp_path / 'images')
    first, last = sorted(examine(tmp_path, progress=False), key=lambda split: split.name)
    faults = [fault for split in (first, last) for fault in split.content.faults]
    assert [(fault.kind, fault.harmful) for fault in faults] == [('same image in two splits', True)]


def test_options_for_a_clean_file_are_for_the_split_that_its_folder_shows(tmp_path):
    lines = {}
    for name in ('train', 'valid', 'default'):
        root = tmp_path / name
        root.mkdir()
        coco(root)
        (root / 'train').rename(root / 'images')
        folder = root / name
        folder.mkdir()
        content = json.loads((root / 'train.json').read_text())
        twice(content)
        (folder / '_annotations.coco.json').write_text(json.dumps(content))
        (root / 'train.json').unlink()
        (split,) = examine(root, progress=False)
        made = clean(split)
        write_clean(made.files)
        lines[name] = config_options(split, made.options)
    assert 'train_dataloader' in lines['train'] and 'val_' not in lines['train']
    assert 'val_dataloader' in lines['valid'] and 'train_' not in lines['valid']
    assert 'train_dataloader' in lines['default'] and 'val_dataloader' in lines['default']


def test_image_with_damaged_metadata_is_readable(tmp_path, recwarn):
    dataset = changed(tmp_path, lambda content: None)
    path = tmp_path / 'train/one.jpg'
    data = path.read_bytes()
    exif = b'Exif\0\0' + b'\0\x08' * 20  # no TIFF header
    path.write_bytes(data[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data[2:])
    assert cv2.imread(str(path)).shape == (SIZE[1], SIZE[0], 3)
    assert check_dataset(dataset, full=True).notes == []
    (split,) = examine(tmp_path, progress=False)
    assert split.content.faults == [] and not recwarn.list


def test_size_of_a_turned_tiff_is_that_of_opencv_in_every_version_of_pillow(tmp_path):
    path = tmp_path / 'a.tif'
    Image.new('RGB', (60, 40)).save(path, exif=sideways())
    data = np.frombuffer(path.read_bytes(), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (60, 40, 3)
    assert header_size(path) == decode(str(path)).size == (40, 60)
    for size in ((60, 40), (40, 60)):  # as older versions give it, and Pillow 12
        with Image.open(path) as image:
            image._size = size
            assert shown_and_stored_size(image) == ((40, 60), (60, 40))


def test_image_beyond_pillow_s_limit_that_opencv_reads_is_not_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
    dataset = changed(tmp_path, lambda content: None)
    assert header_size(tmp_path / 'train/one.jpg') == SIZE
    assert check_dataset(dataset, full=True).notes == []


@pytest.mark.parametrize('layout', [coco, voc])
@pytest.mark.parametrize('kind', ['mask', 'seg'])
def test_pipeline_that_loads_masks_which_do_not_exist_is_an_error(layout, kind, tmp_path):
    dataset = layout(tmp_path)
    dataset.pipeline = [
        dict(type='LoadAnnotations', with_bbox=True, **{f'with_{kind}': True}),
        PACK,
    ]
    with pytest.raises(InputError, match=f'LoadAnnotations has with_{kind}=True, but') as caught:
        check_dataset(dataset)
    assert ('annotate masks' in str(caught.value)) == (kind == 'mask' and layout is coco)


@pytest.mark.parametrize('layout', [coco, voc])
def test_transform_that_needs_masks_needs_them_loaded(layout, tmp_path):
    dataset = layout(tmp_path)
    step = dict(type='FilterAnnotations', by_mask=True)
    dataset.pipeline = [dict(type='LoadAnnotations', with_bbox=True), step, PACK]
    with pytest.raises(InputError, match=r'FilterAnnotations needs masks, .* without masks'):
        check_dataset(dataset)


def test_existing_masks_pass(tmp_path):
    def masked(content: dict) -> None:
        for annotation in content['annotations']:
            annotation['segmentation'] = [[1, 1, 9, 1, 9, 9]]

    dataset = changed(tmp_path, masked)
    dataset.pipeline = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True), PACK]
    check_dataset(dataset)


def test_fix_keeps_images_whose_name_has_backslashes_or_another_ending(tmp_path):
    def renamed(content: dict) -> None:
        first, second = content['images']
        first['file_name'] = 'images\\one.jpg'
        second['file_name'] = 'images/number two.png'

    dataset = changed(tmp_path, renamed)
    (tmp_path / 'train').rename(tmp_path / 'images')
    dataset.data_prefix = dict(img='')
    with pytest.raises(InputError, match=r'missing, but \S+/images/one\.jpg exists'):
        check_dataset(dataset)
    check = in_process('check_data')
    assert check(tmp_path) == 1
    assert check(tmp_path, '--fix') == 0
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    names = [image['file_name'] for image in made['images']]
    assert names == ['images/one.jpg', 'images/number two.jpg']
    dataset.ann_file = 'train_clean.json'
    assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))


def test_png_images_of_voc_are_kept_and_the_printed_command_links_them(tmp_path, capsys):
    voc(tmp_path)
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'train.txt').rename(tmp_path / 'ImageSets/Main/train.txt')
    (tmp_path / 'JPEGImages').rename(tmp_path / 'elsewhere')
    (tmp_path / 'JPEGImages').mkdir()
    for path in (tmp_path / 'elsewhere').iterdir():
        path.rename(tmp_path / 'JPEGImages' / f'{path.stem}.png')
    check = in_process('check_data')
    assert check(tmp_path, '--fix') == 2
    line = capsys.readouterr().err.partition('by that name: ')[2]
    subprocess.run(['sh', '-c', line], check=True, cwd='/')
    assert check(tmp_path) == 0
