"""Folders of every layout give the same boxes, and their faults are reported."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cbam_det.datasets.layouts.sets import Sets, read_sets
from cbam_det.utils.errors import InputError

from .damaged_sets import picture, voc
from .layout_folders import (
    FOLDERS,
    Maker,
    cvat_coco,
    devkit,
    items_of,
    labelimg_yolo,
    objects_read,
    objects_written,
    roboflow_coco,
    roboflow_yolo,
)


def read(folder: Path, **options: object) -> Sets:
    return read_sets(folder, progress=False, **options)


def counts(sets: Sets) -> dict[str, int]:
    return {name: len(content['images']) for name, content in sets.splits.items()}


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path, digits: Path):
    """Make a folder in a layout, inside another folder as in an unpacked archive."""

    def make(maker: Maker) -> Path:
        root = tmp_path / 'my data'
        (root / 'export').mkdir(parents=True)
        maker(root / 'export', *items_of(digits))
        return root

    return make


@pytest.mark.parametrize('maker', FOLDERS, ids=lambda maker: maker.__name__)
def test_each_layout_gives_the_same_boxes_and_splits_and_is_not_changed(maker, folder, digits):
    root = folder(maker)
    before = contents(root)
    sets = read(root)
    assert contents(root) == before
    layout, is_split = FOLDERS[maker]
    items, classes = items_of(digits)
    used = {classes[label] for item in items for label, _ in item.objects}
    assert sets.layout == layout and used <= set(sets.classes) <= set(classes)
    if is_split:
        for split in ('train', 'val', 'test'):
            of_split = [item for item in items if item.split == split]
            assert objects_read(sets, split) == objects_written(of_split, classes)
    else:
        assert set(sets.splits) == {'train', 'val'} and len(sets.splits['val']['images']) == 3
        both = objects_read(sets, 'train') | objects_read(sets, 'val')
        assert both == objects_written(items, classes)
        assert any('no split was found: 3 of 17 images' in note for note in sets.notes)
    for content in sets.splits.values():
        for kind in ('images', 'annotations', 'categories'):
            assert [item['id'] for item in content[kind]] == [*range(1, len(content[kind]) + 1)]


def write_xml(path: Path, *boxes: str, extra: str = '') -> None:
    objects = ''.join(
        f'<object><name>cat</name>{extra}<bndbox>'
        + ''.join(
            f'<{side}>{value}</{side}>'
            for side, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box.split(), strict=True)
        )
        + '</bndbox></object>'
        for box in boxes
    )
    size = '<size><width>48</width><height>40</height></size>'
    path.write_text(f'<annotation>{size}{objects}</annotation>')


def loose_voc(root: Path, *boxes: str, extra: str = '') -> None:
    """Write four images of 48x40, with `boxes` in the first and other boxes in the others."""
    for number in range(4):
        picture(root / f'{number}.jpg', number)
        given = boxes if number == 0 else ('5 5 20 20', '10 10 30 30')
        write_xml(root / f'{number}.xml', *given, extra=extra if number == 0 else '')


def boxes_of_first(sets: Sets) -> list[dict]:
    for content in sets.splits.values():
        ids = {item['id'] for item in content['images'] if Path(item['file_name']).stem == '0'}
        if ids:
            return [item for item in content['annotations'] if item['image_id'] in ids]
    raise AssertionError


def test_voc_boxes_are_pixels_from_1_or_edges_from_0(tmp_path):
    loose_voc(tmp_path, '1 1 10 20')
    assert boxes_of_first(read(tmp_path))[0]['bbox'] == [0, 0, 10, 20]
    write_xml(tmp_path / '0.xml', '0 1 10 20')
    sets = read(tmp_path)
    assert boxes_of_first(sets)[0]['bbox'] == [0, 1, 10, 19]
    assert any('read as edges counted from 0' in note for note in sets.notes)
    write_xml(tmp_path / '0.xml', '1.25 1 10.5 20')
    assert boxes_of_first(read(tmp_path))[0]['bbox'] == [1.25, 1, 9.25, 19]
    write_xml(tmp_path / '1.xml', *(f'{left} 5 20 20' for left in range(1, 10)))
    sets = read(tmp_path)  # 1 of 14, as VOC2012 has some
    assert boxes_of_first(sets)[0]['bbox'] == [0.25, 0, 10.25, 20]
    assert not any('edges' in note for note in sets.notes)


def test_difficult_objects_of_voc_are_crowds_which_mmdet_ignores(tmp_path):
    loose_voc(tmp_path, '1 1 10 20', extra='<difficult>1</difficult>')
    assert [item['iscrowd'] for item in boxes_of_first(read(tmp_path))] == [1]


def test_faulty_objects_and_labels_without_images_are_left_out_with_a_note(tmp_path):
    loose_voc(tmp_path, '1 1 10 20', '9 9 9 9')
    for number in range(10, 18):
        picture(tmp_path / f'{number}.jpg', number)
        write_xml(tmp_path / f'{number}.xml', '5 5 20 20')
    write_xml(tmp_path / 'gone.xml', '5 5 20 20')
    picture(tmp_path / 'not annotated.png', 99)
    sets = read(tmp_path)
    assert sum(len(content['images']) for content in sets.splits.values()) == 12
    notes = '\n'.join(sets.notes)
    assert 'box without area: 1, for example' in notes
    assert 'image missing: 1, for example' in notes
    assert 'left out: 1 image and 1 box' in sets.notes
    assert '1 of 13 images in' in notes and 'not annotated.png' in notes


def test_images_of_coco_without_a_file_and_files_without_an_entry_are_left_out_with_a_note(folder):
    root = folder(cvat_coco) / 'export'
    missing = sorted((root / 'images/default').glob('*.jpeg'))[0]
    missing.rename(missing.with_name('other.jpeg'))
    (root / 'images/link').symlink_to(root)  # an endless loop of folders
    sets = read(root)
    assert sum(len(content['images']) for content in sets.splits.values()) == 16
    notes = '\n'.join(sets.notes)
    assert f'image missing: 1, for example {missing} ' in notes and 'other.jpeg' in notes


def test_image_of_coco_that_is_found_in_another_folder_is_told(folder):
    root = folder(roboflow_coco)
    before = counts(read(root))
    image = sorted((root / 'export/train').glob('*.jpg'))[0]
    (root / 'export/more').mkdir()
    moved = image.rename(root / 'export/more' / image.name)
    sets = read(root)
    annotations = root / 'export/train/_annotations.coco.json'
    assert (
        f'train: 1 images of {annotations} are not in {root / "export/train"}, but images with '
        f'their names are elsewhere: {moved}'
    ) in sets.notes
    assert counts(sets) == before


def test_roboflow_s_category_for_the_set_is_removed_but_other_unused_classes_stay(folder):
    root = folder(roboflow_coco) / 'export'
    for file in root.glob('*/*.json'):
        content = json.loads(file.read_text())
        content['categories'].append(dict(id=11, name='ten', supercategory='ten'))
        file.write_text(json.dumps(content))
    classes = read(root).classes
    assert 'ten' in classes and 'digits' not in classes and len(classes) == 11


def test_yolo_images_without_labels_have_no_objects_and_extra_labels_are_ignored(folder):
    root = folder(labelimg_yolo)
    removed = sorted((root / 'export').glob('*_scene.txt'))[0]
    removed.unlink()
    (root / 'export/gone.txt').write_text('0 0.5 0.5 0.1 0.1\n')
    sets = read(root)
    without_objects = [
        image['file_name']
        for content in sets.splits.values()
        for image in content['images']
        if image['id'] not in {item['image_id'] for item in content['annotations']}
    ]
    assert without_objects == [f'{removed.stem}.jpg']
    assert any('1 images without label file' in note for note in sets.notes)


def test_yolo_label_of_blank_lines_has_no_objects(folder):
    root = folder(labelimg_yolo)
    label = sorted((root / 'export').glob('*_scene.txt'))[0]
    label.write_text('\n \n')
    assert any('1 images have no objects' in note for note in read(root).notes)


def test_polygons_and_poses_of_yolo_give_their_boxes(tmp_path):
    for number in range(3):
        picture(tmp_path / f'{number}.jpg', number)
        (tmp_path / f'{number}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (tmp_path / '0.txt').write_text(
        '1 0.25 0.25 0.5 0.25 0.75 0.75\n'  # a polygon
        '0 0.5 0.5 0.5 0.25 0.4 0.4 2 0.6 0.6 2\n'  # a box and two points
    )
    (tmp_path / 'data.yaml').write_text('names: {0: no, 1: dog}\nkpt_shape: [2, 3]\n')
    sets = read(tmp_path)
    boxes = {item['category_id']: item['bbox'] for item in boxes_of_first(sets)}
    assert boxes == {2: [12, 10, 24, 20], 1: [12, 15, 24, 10]}
    assert sets.classes == ('no', 'dog')  # which YAML takes for False


def test_split_of_data_yaml_is_used_for_folders_of_any_name(folder, tmp_path):
    root = folder(roboflow_yolo) / 'export'
    for split, name in dict(train='a', valid='b', test='c').items():
        (root / split).rename(root / name)
    text = (root / 'data.yaml').read_text()
    text = re.sub(r'\.\./(\w)\w*/', lambda match: f'{dict(t="a", v="b")[match[1]]}/', text)
    (root / 'data.yaml').write_text(text.replace('test: a/images', 'test: c/images'))
    assert counts(read(root)) == dict(train=9, val=5, test=3)


def test_coco_files_are_found_at_any_depth_beside_jsons_of_other_kinds(folder):
    root = folder(roboflow_coco)
    (root / 'package.json').write_text('{}')  # beside the folder that has all others
    assert counts(read(root)) == dict(train=9, val=5, test=3)


def test_image_in_two_splits_stays_in_the_later_one(folder):
    root = folder(roboflow_coco) / 'export'
    train = json.loads((root / 'train/_annotations.coco.json').read_text())
    valid = json.loads((root / 'valid/_annotations.coco.json').read_text())
    name = valid['images'][0]['file_name']
    shutil.copy(root / 'valid' / name, root / 'train' / train['images'][0]['file_name'])
    sets = read(root)
    assert len(sets.splits['train']['images']) == 8 and len(sets.splits['val']['images']) == 5
    assert 'train: 1 images that are also in another split are left out' in sets.notes


def test_set_that_is_scored_on_its_training_images_is_split(folder):
    root = folder(roboflow_yolo) / 'export'
    text = (root / 'data.yaml').read_text()
    (root / 'data.yaml').write_text(text.replace('../valid', 'train').replace('../test', 'train'))
    sets = read(root)
    assert {name: len(raw['images']) for name, raw in sets.splits.items()} == dict(train=7, val=2)
    assert 'val has the same images as train' in sets.notes


def test_test_set_is_used_for_validation_if_there_is_no_validation_set(folder):
    root = folder(devkit)
    (root / 'export/VOC2007/ImageSets/Main/val.txt').unlink()
    sets = read(root)
    assert counts(sets) == dict(train=9, val=3)
    assert 'there is no validation set: the test set is used for validation' in sets.notes


def test_years_of_voc_are_joined_and_other_folders_with_lists_are_an_error(folder):
    root = folder(devkit) / 'export'
    shutil.copytree(root / 'VOC2007', root / 'VOC2012')
    for file in (root / 'VOC2012').glob('[AJ]*/*'):
        file.rename(file.with_name(f'2012 {file.name}'))
    for split in ('train', 'val', 'test'):
        file = root / f'VOC2012/ImageSets/Main/{split}.txt'
        file.write_text(''.join(f'2012 {line}\n' for line in file.read_text().splitlines()))
    assert counts(read(root)) == dict(train=18, val=10, test=6)
    (root / 'VOC2012').rename(root / 'mine')
    with pytest.raises(InputError, match=r'lists of several data sets \(.*VOC2007, .*mine\); give'):
        read(root)


def test_trainval_is_used_for_training_if_there_is_no_train_list(folder):
    root = folder(devkit)
    lists = root / 'export/VOC2007/ImageSets/Main'
    (lists / 'train.txt').rename(lists / 'trainval.txt')
    (lists / 'val.txt').unlink()
    assert len(read(root).splits['train']['images']) == 9


def test_set_of_one_class_and_one_of_eighty_are_read(tmp_path):
    for count in (1, 80):
        root = tmp_path / str(count)
        root.mkdir()
        for number in range(4):
            picture(root / f'{number}.jpg', number)
            (root / f'{number}.txt').write_text(f'{number % count} 0.5 0.5 0.5 0.5\n')
        (root / 'classes.txt').write_text('\n'.join(f'class {n}' for n in range(count)))
        sets = read(root)
        assert sets.classes == tuple(f'class {n}' for n in range(count))
        assert any('train has no objects of class' in note for note in sets.notes) == (count > 1)


def several_layouts(root: Path) -> None:
    loose_voc(root, '1 1 10 20')
    (root / '0.txt').write_text('0 0.5 0.5 0.1 0.1\n')


def yolo(label: str, names: str = 'cat\n') -> object:
    def make(root: Path) -> None:
        picture(root / '0.jpg', 0)
        (root / '0.txt').write_text(label)
        if names:
            (root / 'classes.txt').write_text(names, errors='surrogateescape')

    return make


def two_coco_files(root: Path) -> None:
    for name in ('one', 'two'):
        (root / f'{name}.json').write_text(json.dumps(COCO))
    picture(root / 'a.jpg')


COCO = dict(
    images=[dict(id=1, file_name='a.jpg', width=48, height=40)],
    annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)],
    categories=[dict(id=1, name='cat')],
)


def damaged_json(root: Path) -> None:
    (root / 'train.json').write_text(json.dumps(COCO)[:-9])


def mixed_folders(root: Path) -> None:
    loose_voc(root, '1 1 10 20')
    for split in ('train', 'val'):
        (root / split).mkdir()
        picture(root / split / f'{split}.jpg', 7)
        write_xml(root / split / f'{split}.xml', '1 1 9 9')


def relative_voc(root: Path) -> None:
    for number in range(3):
        picture(root / f'{number}.jpg', number)
        write_xml(root / f'{number}.xml', '.1 .1 .2 .3')


def without_images(root: Path) -> None:
    voc(root)
    shutil.rmtree(root / 'JPEGImages')


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda root: None, r'no annotations in .* \(it has 0 images, 0 xmls, 0 jsons, 0 texts\)'),
        (
            several_layouts,
            r'several layouts: VOC \(.*0.xml\), YOLO \(.*0.txt\); choose one with --layout',
        ),
        (yolo('0 .5 .5 .1 .1\n', ''), r'but no class names; write .*classes.txt'),
        (
            yolo('3 .5 .5 .1 .1\n'),
            r'0.txt, line 1: class 3, but .*classes.txt has names for 1 \(0 to 0\)',
        ),
        (yolo('0 24 20 10 10\n'), 'no box of the 1 images can be used, .*outside 0..1'),
        (yolo('0 .5 .5 .1 .1 .9\n'), 'has 6 numbers, not 5'),
        (
            yolo('0 .5 .5 .1 .1\n', 'caf\udce9\n'),
            r'classes.txt is not valid UTF-8 \(.*; save it as',
        ),
        (yolo('0 .5 .5 .1 .1\n', ' \n'), r'classes.txt has no names'),
        (
            yolo('0 .5 .5 .1 .1\n', 'cat\ndog\ncat\n'),
            "classes.txt: the classes 0 and 2 are both named 'cat'; give each class its own name",
        ),
        (two_coco_files, 'one.json and .*two.json both list .*a.jpg; move one'),
        (damaged_json, 'train.json is not valid JSON'),
        (mixed_folders, 'not in the folder of a split .*but others are .train, val'),
        (without_images, 'the 2 images cannot be used, .*missing'),
        (relative_voc, 'boxes with all values from 0 to 1'),
        (lambda root: loose_voc(root, '30 30 9 9'), '1 of 7 objects'),
    ],
)
def test_wrong_or_mixed_input_is_an_error_of_one_line(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path)
    assert '\n' not in str(caught.value) and '--fix' not in str(caught.value)


def test_archive_must_be_unpacked(tmp_path):
    (tmp_path / 'export.zip').write_bytes(b'PK')
    with pytest.raises(InputError, match=r'export\.zip is a file; unpack it'):
        read(tmp_path / 'export.zip')


def test_layout_can_be_chosen_if_a_folder_has_several(tmp_path):
    several_layouts(tmp_path)
    assert read(tmp_path, layout='voc').layout == 'VOC'
    with pytest.raises(InputError, match='has no COCO files; leave --layout out'):
        read(tmp_path, layout='coco')


def test_embedded_digits_need_a_choice_of_layout_and_give_the_same_boxes_in_both(digits):
    with pytest.raises(InputError, match='--layout coco or --layout voc'):
        read(digits)
    coco, voc_sets = read(digits, layout='coco'), read(digits, layout='voc')
    assert all(objects_read(coco, name) == objects_read(voc_sets, name) for name in coco.splits)
