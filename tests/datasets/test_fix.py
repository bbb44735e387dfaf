"""`--fix`: its files pass the check, and it only removes what is faulty."""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from cbam_det.datasets.validation.clean import clean, write_clean
from cbam_det.datasets.validation.coco import KINDS_WITH_KEPT_BOX
from cbam_det.datasets.validation.content import Clean, fixable
from cbam_det.datasets.validation.folder import examine
from cbam_det.datasets.validation.splits import AnnotatedSplit
from cbam_det.utils.errors import InputError

from .damaged_sets import XML, coco, entry, picture, swap, text, voc
from .one_set import check_dataset
from .test_data_faults import COCO, VOC


def with_usual_list(root: Path, dataset: ConfigDict) -> ConfigDict:
    """Move the list of a small VOC set to its usual place."""
    if (root / 'train.txt').exists():
        (root / 'ImageSets/Main').mkdir(parents=True)
        (root / 'train.txt').rename(root / 'ImageSets/Main/train.txt')
        dataset.ann_file = 'ImageSets/Main/train.txt'
    return dataset


def fixed(root: Path, dataset: ConfigDict) -> tuple[AnnotatedSplit, Clean]:
    """Write the clean files of a folder and make `dataset` read them; returns its split too."""
    (split,) = examine(root, progress=False)
    made = clean(split)
    write_clean(made.files)
    dataset.update(made.options)
    return split, made


ROWS = [
    pytest.param(layout, row, id=f'{layout.__name__}, {kind}')
    for layout, table in ((coco, COCO), (voc, VOC))
    for kind, row in table.items()
    if not row.config
]


@pytest.mark.parametrize(('layout', 'row'), ROWS)
def test_clean_files_pass_the_check_and_keep_everything_without_faults(layout, row, tmp_path):
    dataset = layout(tmp_path)
    row.make(tmp_path)
    with_usual_list(tmp_path, dataset)
    try:
        (split,) = examine(tmp_path, progress=False)
    except InputError:
        return  # for example not JSON, which --fix cannot repair
    content = split.content
    if not any(map(fixable, content.faults)):
        return
    faulty = {
        (fault.image, fault.object)
        for fault in content.faults
        if fault.kind not in KINDS_WITH_KEPT_BOX
    }
    faulty = {pair for pair in faulty if pair[1] is not None}
    out = content.unusable_images() | {
        fault.image
        for fault in content.faults
        if fault.kind in ('invalid image entry', 'image id twice')
    }
    try:
        fixed(tmp_path, dataset)
    except InputError as error:
        by_hand = any(not fixable(fault) for fault in content.faults if fault.harmful)
        links = 'link them by that name' in str(error)
        nothing_left = content.objects == len(faulty) or len(out) >= len(content.images) - 1
        assert by_hand or links or (nothing_left and 'nothing in' in str(error))
        return
    if any(fault.kind == 'category name twice' for fault in content.faults):
        dataset.metainfo = dict(classes=('cat',))
    summary = check_dataset(dataset, full=True)
    assert summary.images >= len(content.images) - len(out | set(content.repeated_images()))
    out |= {fault.image for fault in content.faults if fault.kind == 'image listed twice'}
    lost = len(faulty) + sum(content.images[index].objects for index in out)
    assert summary.objects >= content.objects - lost


def test_missing_size_of_an_image_is_read_from_its_file(tmp_path):
    dataset = coco(tmp_path)
    entry('images', 0, 'width', height=0)(tmp_path)
    fixed(tmp_path, dataset)
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert [(image['width'], image['height']) for image in made['images']] == 2 * [(48, 40)]
    assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))


def test_classes_of_the_same_name_are_merged(tmp_path):
    dataset = coco(tmp_path)
    entry('categories', 1, name='cat')(tmp_path)
    dataset.metainfo = dict(classes=('cat',))
    split, _ = fixed(tmp_path, dataset)
    assert [fault.kind for fault in split.content.faults] == ['category name twice']
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert [annotation['category_id'] for annotation in made['annotations']] == [1, 1, 1, 1]
    assert '4 objects, 1 classes' in str(check_dataset(dataset))


def test_entries_of_one_image_under_several_names_are_merged(tmp_path):
    dataset = coco(tmp_path)
    for name in ('one.jpg', 'number two.jpg'):
        picture(tmp_path / 'train' / name, seed=7)
    split, _ = fixed(tmp_path, dataset)
    assert [(fault.kind, fault.harmful) for fault in split.content.faults] == [
        ('same image twice', True)
    ]
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert [image['file_name'] for image in made['images']] == ['one.jpg']
    assert [annotation['image_id'] for annotation in made['annotations']] == [1, 1, 1, 1]


def test_two_names_of_one_file_become_one_entry(tmp_path):
    dataset = coco(tmp_path)
    (tmp_path / 'train/number two.jpg').unlink()
    entry('images', 0, file_name='.\\one.jpg')(tmp_path)
    entry('images', 1, file_name='ONE.JPG')(tmp_path)
    fixed(tmp_path, dataset)
    assert '1 images, 4 objects' in str(check_dataset(dataset, full=True))


OTHERS = XML.replace('5<', '7<').replace('21<', '18<')  # other boxes


@pytest.fixture
def pair(tmp_path: Path) -> ConfigDict:
    """The small VOC set, with its list in the usual place."""
    return with_usual_list(tmp_path, voc(tmp_path))


def objects_of(root: Path, name: str = 'one') -> list[list[str]]:
    xml = ET.parse(root / f'Annotations_clean/{name}.xml')
    return [[side.text for side in box] for box in xml.iterfind('object/bndbox')]


def test_xmls_of_one_image_under_several_names_are_merged(pair, tmp_path):
    for name in ('one', 'number two'):
        picture(tmp_path / f'JPEGImages/{name}.jpg', seed=7)
    (tmp_path / 'Annotations/number two.xml').write_text(OTHERS)
    fixed(tmp_path, pair)
    assert (tmp_path / 'ImageSets/Main/train_clean.txt').read_text() == 'one\n'
    assert len(objects_of(tmp_path)) == 4
    assert '1 images, 4 objects' in str(check_dataset(pair, full=True))


def test_copies_of_a_voc_image_with_the_same_boxes_are_harmless(pair, tmp_path):
    for name in ('one', 'number two'):
        picture(tmp_path / f'JPEGImages/{name}.jpg', seed=7)
    summary = check_dataset(pair)
    assert summary.images == 2 and 'same image twice: 1' in str(summary)
    (tmp_path / 'Annotations/number two.xml').write_text(OTHERS)
    with pytest.raises(InputError, match='is the same image as'):
        check_dataset(pair)


def test_box_of_voc_that_is_listed_twice_is_kept_once(pair, tmp_path):
    object_ = XML[XML.index('<object>') : XML.index('</object>') + len('</object>')]
    swap('</annotation>', f'{object_}</annotation>')(tmp_path)
    with pytest.raises(
        InputError, match=r'object 3 has the same class and box .* as an earlier object'
    ):
        check_dataset(pair)
    fixed(tmp_path, pair)
    assert len(objects_of(tmp_path)) == 2
    assert '2 images, 4 objects' in str(check_dataset(pair))


def write_boxes(root: Path, *boxes: tuple) -> None:
    """Write these boxes for each image of the small VOC set."""
    object_ = '<object><name>{}</name><bndbox>{}</bndbox></object>'
    sides = ('xmin', 'ymin', 'xmax', 'ymax')
    text = ''
    for name, box in zip(('cat', 'dog'), boxes, strict=True):
        values = ''.join(f'<{side}>{v}</{side}>' for side, v in zip(sides, box, strict=True))
        text += object_.format(name, values)
    head = XML[: XML.index('<object>')]
    for name in ('one', 'number two'):
        (root / f'Annotations/{name}.xml').write_text(f'{head}{text}</annotation>')


def test_sizes_instead_of_corners_in_voc_stop_the_run_and_fix_writes_the_corners(pair, tmp_path):
    write_boxes(tmp_path, (25, 6, 20, 24), (30, 20, 18, 20))
    with pytest.raises(InputError, match=r'4 have no area as corners, but 4 fit .* --fix does'):
        check_dataset(pair)
    (split,) = examine(tmp_path, progress=False)
    assert [(fault.kind, fault.harmful) for fault in split.content.faults] == [
        ('sizes instead of corners', True)
    ]
    fixed(tmp_path, pair)
    assert objects_of(tmp_path) == [['25', '6', '45', '30'], ['30', '20', '48', '40']]
    assert check_dataset(pair).notes == []


def test_voc_boxes_with_values_in_0_1_are_reported(pair, tmp_path):
    write_boxes(tmp_path, (0.1, 0.2, 0.5, 0.9), (0, 0, 1, 1))
    with pytest.raises(InputError, match='has 4 boxes with all values from 0 to 1') as caught:
        check_dataset(pair)
    (split,) = examine(tmp_path, progress=False)
    assert str(split.content.faults[0]) in str(caught.value)
    with pytest.raises(InputError, match='multiply them by the width'):
        clean(split)


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (
            b'one \nJPEGImages\\NUMBER TWO.JPG\none.jpg\nnumber two 1\n',
            r"line 1: 'one ' is not an image name, but \S+/one.xml exists",
        ),
        (
            b'\xef\xbb\xbfone\r\nnumber two\r\n',
            r"line 1: '\\ufeffone' is not an image name, but \S+/one",
        ),
        (b'one\r\nnumber two\r\n\r\n \r\n', "line 3: '' is not an image name"),
    ],
    ids=['blanks, folders, endings, a column', 'a byte order mark', 'blank lines at the end'],
)
def test_clean_list_has_the_image_names_that_its_lines_mean(lines, message, pair, tmp_path):
    text(lines, 'ImageSets/Main/train.txt')(tmp_path)
    with pytest.raises(InputError, match=message):
        check_dataset(pair)
    fixed(tmp_path, pair)
    made = (tmp_path / 'ImageSets/Main/train_clean.txt').read_text()
    assert made == 'one\nnumber two\n'
    assert '2 images, 4 objects' in str(check_dataset(pair, full=True))


def test_printed_command_links_voc_images_whose_names_differ_in_letter_case(pair, tmp_path):
    for name, other in (('one', 'ONE.JPG'), ('number two', 'number two.jpeg')):
        os.rename(tmp_path / f'JPEGImages/{name}.jpg', tmp_path / f'JPEGImages/{other}')
    with pytest.raises(InputError, match=r'missing, but \S+/ONE\.JPG exists'):
        check_dataset(pair)
    with pytest.raises(InputError, match='by that name: ln -s') as caught:
        fixed(tmp_path, pair)
    line = str(caught.value).partition('by that name: ')[2]
    subprocess.run(['sh', '-c', line], check=True, cwd='/')
    assert '2 images, 4 objects' in str(check_dataset(pair, full=True))


def test_fix_finds_coco_images_whose_names_differ_in_letter_case(tmp_path):
    dataset = coco(tmp_path)
    (tmp_path / 'train').rename(tmp_path / 'Train')
    (tmp_path / 'Train/one.jpg').rename(tmp_path / 'Train/ONE.Jpg')
    dataset.data_prefix = dict(img='')
    for index, name in enumerate(('one.jpg', 'number two.jpg')):
        entry('images', index, file_name=f'train/{name}')(tmp_path)
    with pytest.raises(InputError, match=r'missing, but \S+/Train/ONE\.Jpg exists'):
        check_dataset(dataset)
    fixed(tmp_path, dataset)
    made = json.loads((tmp_path / 'train_clean.json').read_text())
    assert [image['file_name'] for image in made['images']] == [
        'Train/ONE.Jpg',
        'Train/number two.jpg',
    ]
    assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))
