"""Every kind of fault in the data stops the run with its message, or is counted in a note."""

from __future__ import annotations

import math
import re
import shutil

import cv2
import mmcv
import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.utils import digit_version

from cbam_det.datasets.validation.images import decode, pixel_notes
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS, in_process
from .damaged_sets import (
    CLASSES,
    PACK,
    SIZE,
    XML,
    Row,
    bomb,
    box,
    coco,
    cut,
    entry,
    every,
    image,
    shorten,
    sideways,
    swap,
    text,
    voc,
)
from .one_set import check_dataset

UNTURNED = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
# OpenCV reads GIF files since 4.12.
GIF = None if digit_version(cv2.__version__) >= digit_version('4.12') else 'unreadable'
COCO = {
    # The file
    'empty file': Row(text(b''), 'train.json is not valid JSON'),
    'web page': Row(text(b'<html>'), 'train.json is not valid JSON'),
    'truncated JSON': Row(text(b'{"images": [{"id":'), 'train.json is not valid JSON'),
    'JSON nested too deep': Row(text(b'[' * 200_000), 'train.json is not valid JSON'),
    'JSON of Latin-1': Row(text('{"images": "é"}'.encode('latin-1')), 'is not valid UTF-8'),
    'JSON with a byte order mark': Row(
        lambda root: text(b'\xef\xbb\xbf' + (root / 'train.json').read_bytes())(root),
        'train.json begins with a byte order mark, so mmdet cannot read it; save it as UTF-8',
    ),
    'a number': Row(text(b'3'), "is not a COCO file: it lacks the list 'images'"),
    'captions': Row(text(b'{"images": [], "annotations": []}'), "lacks the list 'categories'"),
    'no images': Row(cut('images', 0), 'lists no images'),
    'no annotations': Row(cut('annotations', 0), 'has no annotations'),
    # Categories
    'category without name': Row(entry('categories', 0, 'name'), "categories[0] lacks 'name'"),
    'category id twice': Row(
        entry('categories', 1, id=1), 'categories[1] has id=1, like an earlier'
    ),
    'category name twice': Row(entry('categories', 1, name='cat'), "categories[1] has name='cat'"),
    # Images
    'image without width': Row(entry('images', 1, 'width'), "images[1] lacks 'width'"),
    'image of no size': Row(entry('images', 0, width=0), 'images[0] has width=0 and height=40'),
    'image size of words': Row(entry('images', 0, width='48'), "images[0] has width='48'"),
    'image name of a number': Row(
        entry('images', 0, file_name=7), 'images[0] has file_name=7, which'
    ),
    'image name of half a character': Row(
        entry('images', file_name='\ud800'), 'is not a file name'
    ),
    'image id of a list': Row(entry('images', 0, id=[1]), 'images[0] has id=[1], which'),
    'image id twice': Row(entry('images', 1, id=1), 'images[1] has id=1, like an earlier image'),
    # Annotations
    'annotation id twice': Row(entry('annotations', 1, id=1), 'annotations[1] has id=1, like an'),
    'unlisted image': Row(entry('annotations', 2, image_id=9), 'annotations[2] has image_id=9'),
    'unlisted category': Row(entry('annotations', category_id=9), 'annotations[0] has category_id'),
    'category of a list': Row(entry('annotations', category_id=[1]), 'has category_id=[1]'),
    'box of null': Row(entry('annotations', 0, bbox=None), "annotations[0] lacks 'bbox'"),
    'box of words': Row(
        entry('annotations', bbox=['1', 2, 3, 4]), "has bbox=['1', 2, 3, 4], which"
    ),
    'box of NaN': Row(entry('annotations', bbox=[1, 2, float('nan'), 4]), 'not four numbers'),
    'box of a huge number': Row(entry('annotations', bbox=[1, 2, 3, 10**400]), 'not four numbers'),
    'area of words': Row(entry('annotations', 0, area='9'), "has area='9', which is not a"),
    'iscrowd of words': Row(entry('annotations', 0, iscrowd='no'), "has iscrowd='no', which is"),
    'all crowd': Row(every('annotations', iscrowd=1), 'all are crowd, difficult, ignored or with'),
    'crowd': Row(entry('annotations', 0, iscrowd=1)),
    # mmdet ignores these boxes by itself
    'box without width': Row(
        entry('annotations', 0, bbox=[5, 6, 0, 9]), note='box without area: 1 ('
    ),
    'box of negative size': Row(
        entry('annotations', 0, bbox=[25, 30, -20, -24]), note='box without area: 1 ('
    ),
    'box below a pixel': Row(
        entry('annotations', 0, bbox=[5, 6, 0.5, 9]), note='box without area: 1 ('
    ),
    'box outside': Row(
        entry('annotations', 3, bbox=[48, 0, 9, 9]), note='box outside the image: 1 ('
    ),
    'box beyond the edge': Row(
        entry('annotations', 3, bbox=[-9, 0, 90, 9]), note='box beyond the edge: 1 ('
    ),
    'every box without area': Row(every('annotations', bbox=[1, 1, 0, 0]), 'or without area'),
    'annotation id 0': Row(entry('annotations', 0, id=0), note='annotation id 0: 1 ('),
    'image without objects': Row(
        cut('annotations', 2), note='filtered out of training: 1 images (1 without objects, 0 small'
    ),
    'all images small': Row(
        every('images', width=31), 'mmdet filters out all 2 images of', config=dict(test_mode=False)
    ),
    # Image files
    'missing': Row(lambda root: (root / 'train/one.jpg').unlink(), 'one.jpg (missing)'),
    'missing, another ending': Row(
        lambda root: (root / 'train/one.jpg').rename(root / 'train/one.png'), 'one.png exists)'
    ),
    'zero bytes': Row(text(b'', 'train/one.jpg'), 'one.jpg (empty)'),
    'folder for an image': Row(entry('images', 0, file_name='.'), '(not a file)'),
    'corrupt': Row(text(b'\xff\xd8' + 99 * b'x', 'train/one.jpg'), 'one.jpg (unreadable'),
    'truncated': Row(shorten, 'one.jpg (unreadable: image file is truncated', full=True),
    'decompression bomb': Row(bomb, 'decompression bomb'),
    'no format of OpenCV': Row(image(suffix='PCX'), 'cannot decode PCX of mode RGB', full=True),
    'grey': Row(image('L'), full=True, note='1 images are not RGB (L 1)'),
    'RGBA': Row(image('RGBA', suffix='PNG'), full=True, note='not RGB (RGBA 1)'),
    '12 bits in 16': Row(
        image('I;16', suffix='PNG'),
        full=True,
        note='16-bit images are almost black after this conversion: 1 (at most 0 of 255)',
    ),
    '16 bits, most significant byte first': Row(
        image('I;16B', suffix='TIFF'), full=True, note='not RGB (I;16B 1)'
    ),
    '16 bits': Row(image('I;16', suffix='PNG'), full=True, note='not RGB (I;16 1)'),
    'CMYK': Row(image('CMYK'), full=True, note='not RGB (CMYK 1)'),
    'palette': Row(image('P', suffix='PNG'), full=True, note='not RGB (P 1)'),
    'GIF': Row(image('P', suffix='GIF'), GIF, full=True, note='not RGB (P 1)'),
    'another size': Row(image(size=(30, 40)), 'is 30 x 40, but annotated as 48 x 40'),
    'another size of a PNG': Row(
        image(size=(30, 40), suffix='PNG'), 'is 30 x 40, but annotated as 48 x 40'
    ),
    'width and height swapped': Row(
        every('images', width=SIZE[1], height=SIZE[0]),
        'one.jpg is 48 x 40, but annotated as 40 x 48 (and 1 more such faults)',
    ),
    'one picture under two names': Row(
        lambda root: shutil.copy(root / 'train/one.jpg', root / 'train/number two.jpg'),
        'number two.jpg is the same image as',
    ),
    'turned by EXIF': Row(image(exif=sideways()), 'is 40 x 48 after its EXIF orientation'),
    'turned by EXIF as annotated': Row(
        image(size=SIZE[::-1], exif=sideways()), full=True, note='1 images have an EXIF orientation'
    ),
    'turned by EXIF, which the pipeline ignores': Row(
        image(exif=sideways()),
        config=dict(pipeline=[UNTURNED, dict(type='LoadAnnotations', with_bbox=True), PACK]),
    ),
    'one pixel': Row(
        lambda root: (image(size=(1, 1))(root), entry('images', 0, width=1, height=1)(root)),
        note='1 images (0 without objects, 1 smaller than min_size=32 pixels)',
        full=True,
    ),
    # The config
    'misspelt filter': Row(
        error='filter_cfg.bbox_size of', config=dict(filter_cfg=dict(bbox_size=1))
    ),
    'misspelt type': Row(error="'CoCoDataset' is not registered", config=dict(type='CoCoDataset')),
    'misspelt class': Row(
        error="no category 'dogs' (did you mean 'dog'?)",
        config=dict(metainfo=dict(classes=('dogs',))),
    ),
    'classes in another order': Row(
        error="label 0 would be 'cat' but be named 'dog'",
        config=dict(metainfo=dict(classes=CLASSES[::-1])),
    ),
    'a class left out': Row(
        note='classes ignored, as the config does not list them: dog',
        config=dict(metainfo=dict(classes=('cat',))),
    ),
    'test without iscrowd': Row(
        entry('annotations', 0, 'iscrowd'), "lacks 'iscrowd'", config=dict(test_mode=True)
    ),
}

VOC = {
    # The list
    'empty list': Row(text(b'', 'train.txt'), 'train.txt lists no images'),
    'blank line': Row(text(b'one\n\none\n', 'train.txt'), "line 2: '' is not an image name"),
    'second column': Row(text(b'one 1\n', 'train.txt'), "line 1: 'one 1' is not an image name"),
    'list of Latin-1': Row(text(b'one\nd\xe9j\xe0\n', 'train.txt'), 'line 2 is not valid UTF-8'),
    'byte order mark': Row(
        text(b'\xef\xbb\xbfone\n', 'train.txt'), r"line 1: '\ufeffone' is not an image name, but"
    ),
    'lines as in Windows': Row(text(b'one\r\nnumber two\r\n', 'train.txt')),
    'lines as on old Macs': Row(text(b'one\rnumber two\r', 'train.txt')),
    'listed twice': Row(text(b'one\none\n', 'train.txt'), "line 2: 'one' is already listed"),
    'unknown name': Row(text(b'one\ngone\n', 'train.txt'), 'annotations of'),
    'PNG images': Row(
        lambda root: (root / 'JPEGImages/one.jpg').rename(root / 'JPEGImages/one.png'),
        'one.png exists)',
    ),
    # The XML
    'broken XML': Row(text(b'<annotation>', 'Annotations/one.xml'), 'one.xml is not valid XML'),
    'XML of unknown encoding': Row(
        text(b'<?xml version="1.0" encoding="x"?><a/>', 'Annotations/one.xml'),
        'one.xml is not valid XML',
    ),
    'XML in GBK': Row(
        text('<?xml version="1.0" encoding="GBK"?><a>猫</a>'.encode('gbk'), 'Annotations/one.xml'),
        'not supported): save it as UTF-8, with encoding="UTF-8"',
    ),
    'XML in undeclared Latin-1': Row(
        text('<a>é</a>'.encode('latin-1'), 'Annotations/one.xml'),
        'column 3): save it as UTF-8, with encoding="UTF-8"',
    ),
    'no size': Row(swap(XML.splitlines()[0].removeprefix('<annotation>'), '')),
    'size without height': Row(swap('<height>40</height>', ''), "has a size of '48' x None"),
    'size of 0': Row(swap('<width>48', '<width>0'), "one.xml: has a size of '0' x '40'"),
    'size with a point': Row(swap('<width>48', '<width>48.0'), "has a size of '48.0' x"),
    'size of another image': Row(
        swap('<width>48', '<width>50'), 'is 48 x 40, but annotated as 50 x 40'
    ),
    'no name': Row(swap('<name>cat</name>', ''), 'object 1 has no name'),
    'empty name': Row(swap('<name>cat</name>', '<name/>'), 'object 1 has no name'),
    'no bndbox': Row(swap('<bndbox>', '<bndbox/><box>'), 'is not valid XML'),
    'side missing': Row(swap('<ymax>30</ymax>', ''), 'object 1 has no bndbox of four numbers'),
    'side of words': Row(box('left', 6, 25, 30), 'object 1 has no bndbox of four numbers'),
    'side of NaN': Row(box('nan', 6, 25, 30), 'object 1 has no bndbox of four numbers'),
    'side of infinity': Row(box(5, 6, 'inf', 30), 'object 1 has no bndbox of four numbers'),
    'difficult of words': Row(
        swap('<difficult>0', '<difficult>no'), "object 1 has difficult='no', which is neither"
    ),
    'another class': Row(swap('cat', 'cow'), note='the config does not list them: cow'),
    'missing class': Row(
        lambda root: [
            (root / f'Annotations/{name}.xml').write_text(XML.replace('dog', 'cat'))
            for name in ('one', 'number two')
        ],
        note='classes without objects: dog',
    ),
    'no objects': Row(
        lambda root: [
            (root / f'Annotations/{name}.xml').write_text('<annotation/>')
            for name in ('one', 'number two')
        ],
        'has no annotations',
    ),
    # An infinite loss, unless the config filters the box
    'box without width': Row(box(5, 6, 5, 30), 'xmin=5, ymin=6, xmax=5, ymax=30 without area'),
    'box below a pixel': Row(box(5.2, 6, 5.9, 30), 'without area, which makes the loss infinite'),
    'box of reversed corners': Row(
        box(25, 30, 5, 6), 'filter_cfg=dict(bbox_min_size=1), or correct'
    ),
    'box without width, filter_cfg': Row(
        box(5, 6, 5, 30),
        note='box without area: 1 (',
        config=dict(filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1)),
    ),
    'box without width, filter in the pipeline': Row(
        box(5, 6, 5, 30),
        note='box without area: 1 (',
        config=dict(
            pipeline=[
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
                PACK,
            ]
        ),
    ),
    'box without width, in a test': Row(
        box(5, 6, 5, 30), note='box without area: 1 (', config=dict(test_mode=True)
    ),
    'box without width, of another class': Row(
        box(5, 6, 5, 30),
        note='the config does not list them: cat',
        config=dict(metainfo=dict(classes=('dog',))),
    ),
    'box outside': Row(box(49, 6, 60, 30), 'clips it to a box without area'),
    'box outside, filter_cfg': Row(
        box(49, 6, 60, 30),
        "dict(type='FilterAnnotations'",
        config=dict(filter_cfg=dict(bbox_min_size=1)),
    ),
    'box before the first pixel': Row(box(0, 6, 1, 30), 'clips it to a box without area'),
    'box counted from 0': Row(box(0, 0, 25, 30)),
    'box beyond the edge': Row(box(5, 6, 99, 30), note='box beyond the edge: 1 ('),
    'bbox_min_size in a test': Row(
        error='filter_cfg.bbox_min_size of XMLDataset is for training',
        config=dict(test_mode=True, filter_cfg=dict(bbox_min_size=1)),
    ),
    'no classes': Row(error='XMLDataset has no classes', config=dict(metainfo=None)),
}


@pytest.mark.parametrize(
    ('layout', 'row'),
    [
        pytest.param(layout, row, id=f'{layout.__name__}, {kind}')
        for layout, table in ((coco, COCO), (voc, VOC))
        for kind, row in table.items()
    ],
)
def test_bad_data_is_refused_or_counted(layout, row, tmp_path):
    dataset = layout(tmp_path)
    row.make(tmp_path)
    dataset.update(row.config)
    init_default_scope('mmdet')
    if row.error:
        with pytest.raises(InputError) as caught:
            check_dataset(dataset, row.full)
        message = str(caught.value)
        assert row.error in message and '\n' not in message
        assert message.count(';') or message.endswith('score')  # a remedy
    else:
        summary = check_dataset(dataset, row.full)
        assert summary.notes == [] if row.note is None else row.note in str(summary)


def test_more_than_a_hundred_kinds_are_in_the_tables():
    assert len(COCO) + len(VOC) >= 100


@pytest.mark.parametrize(
    'kind',
    [
        *('grey', 'RGBA', '16 bits', 'CMYK', 'palette', 'turned by EXIF as annotated'),
        *(['GIF'] if GIF is None else []),
    ],
)
def test_mmcv_reads_what_the_check_lets_pass_as_three_channels_of_the_annotated_size(
    kind, tmp_path
):
    coco(tmp_path)
    COCO[kind].make(tmp_path)
    pixels = mmcv.imread(str(tmp_path / 'train/one.jpg'))
    assert (pixels.shape, pixels.dtype) == ((*SIZE[::-1], 3), np.uint8)


@pytest.mark.parametrize(('largest', 'is_dark'), [(4095, True), (2**15, False)])
@pytest.mark.parametrize('shape', [(40, 48), (40, 48, 3)])
@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_16_bit_images_are_named_if_mmcv_reads_them_as_almost_black(
    ending, shape, largest, is_dark, tmp_path
):
    path = str(tmp_path / f'a.{ending}')
    cv2.imwrite(path, np.linspace(0, largest, math.prod(shape)).reshape(shape).astype(np.uint16))
    assert (mmcv.imread(path).max() < 32) == is_dark
    notes = [note for note in pixel_notes([decode(path)]) if 'almost black' in note]
    assert len(notes) == is_dark and all('at most 15 of 255' in note for note in notes)


def test_mmdet_numbers_classes_in_the_order_of_the_file_and_not_of_the_config(tmp_path):
    dataset = coco(tmp_path)
    dataset.metainfo = dict(classes=CLASSES[::-1])
    with DefaultScope.overwrite_default_scope('mmdet'):
        labels = [instance['bbox_label'] for instance in DATASETS.build(dataset)[0]['instances']]
    assert labels == [0, 1]  # the cat, then the dog


def test_mmdet_ignores_the_box_without_area_with_bbox_min_size(tmp_path):
    dataset = voc(tmp_path)
    box(5, 6, 5, 30)(tmp_path)
    for smallest, flags in ((None, [0, 0]), (1, [1, 0])):
        dataset.filter_cfg = dict(bbox_min_size=smallest)
        with DefaultScope.overwrite_default_scope('mmdet'):
            instances = DATASETS.build(dataset)[0]['instances']
        assert [instance['ignore_flag'] for instance in instances] == flags


def test_training_on_a_box_without_area_ends_before_the_model_is_built(
    digits, tmp_path, monkeypatch, capsys
):
    """Its loss would be infinite from the first step on."""
    root = tmp_path / 'VOC2007'
    (root / 'ImageSets/Main').mkdir(parents=True)
    for folder in ('Annotations', 'JPEGImages'):
        shutil.copytree(digits / 'VOCdevkit/VOC2007' / folder, root / folder)
    names = (digits / 'VOCdevkit/VOC2007/ImageSets/Main/trainval.txt').read_text()
    for split in ('trainval', 'test'):
        (root / f'ImageSets/Main/{split}.txt').write_text(names)
    file = root / f'Annotations/{names.split()[0]}.xml'
    file.write_text(re.sub(r'<xmax>\d+<', '<xmax>1<', file.read_text(), count=1))
    monkeypatch.chdir(tmp_path)
    config = str(CONFIGS / 'faster_rcnn_r50_cbam_digits_voc.py')
    assert in_process('train')(config, '--data-root', root) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and f'error: {file}: object 1 has the box' in error[0]
    assert 'filter_cfg=dict(bbox_min_size=1)' in error[0]
    assert not (tmp_path / 'work_dirs').exists()
