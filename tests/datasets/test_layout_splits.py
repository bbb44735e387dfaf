"""The splits that a folder's own files define, and errors in these files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cbam_det.datasets.layouts.files import list_files
from cbam_det.datasets.layouts.sets import Sets, read_sets
from cbam_det.datasets.layouts.voc import read_voc_folder
from cbam_det.datasets.layouts.yolo import read_yolo_folder
from cbam_det.datasets.validation.folder import find_splits
from cbam_det.utils.errors import InputError

from .damaged_sets import XML, picture


def yolo(root: Path, options: str) -> None:
    """Write four images with labels in the folder `frames`, and `options` into `data.yaml`."""
    (root / 'frames').mkdir()
    for number in range(4):
        picture(root / f'frames/{number}.jpg', number)
        (root / f'frames/{number}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (root / 'data.yaml').write_text(f'names: [cat]\n{options}')


def images_of(root: Path) -> dict[str, list[str]]:
    """The images of each split of a YOLO folder, as paths below it."""
    return {
        split.name: [
            Path(image.path).relative_to(root).as_posix() for image in split.content.images
        ]
        for split in read_yolo_folder(list_files(root))
    }


def test_validation_set_without_images_is_an_error_not_a_random_split(tmp_path):
    yolo(tmp_path, 'train: frames\nval: frame\n')
    with pytest.raises(InputError, match=r'for val: frame of .*data\.yaml; correct the path, or'):
        images_of(tmp_path)
    (tmp_path / 'data.yaml').write_text('names: [cat]\ntrain: frames\nval: null\n')
    assert images_of(tmp_path) == dict(all=[f'frames/{number}.jpg' for number in range(4)])


@pytest.mark.parametrize(
    ('folder', 'options', 'split'),
    [
        ('empty', 'train: frames/a\nval: [frames/b, empty]\n', 'val'),
        ('empty', 'train: [frames/a, empty]\nval: frames/b\n', 'train'),
        ('frames/train/empty', '', 'train'),
    ],
)
def test_images_without_labels_belong_to_the_split_that_names_them(
    folder, options, split, tmp_path
):
    yolo(tmp_path, options)
    for name, numbers in (('a', '01'), ('b', '23')):
        name = name if options else dict(a='train', b='val')[name]
        (tmp_path / 'frames' / name).mkdir()
        for number in numbers:
            for ending in ('jpg', 'txt'):
                (tmp_path / f'frames/{number}.{ending}').rename(
                    tmp_path / f'frames/{name}/{number}.{ending}'
                )
    (tmp_path / folder).mkdir()
    picture(tmp_path / folder / 'street.jpg', 9)
    images = images_of(tmp_path)
    assert f'{folder}/street.jpg' in images[split]
    assert sorted(map(len, images.values())) == [2, 3]


@pytest.mark.parametrize('options', ['train: frames\nval: val\n', ''])
def test_validation_set_without_any_label_is_an_error_and_such_a_test_set_is_left_out(
    options, tmp_path
):
    yolo(tmp_path, options)
    (tmp_path / 'val').mkdir()
    picture(tmp_path / 'val/a.jpg', 9)
    if not options:
        (tmp_path / 'frames').rename(tmp_path / 'train')
    with pytest.raises(InputError, match=r'the 1 images of val have no label files .*; label some'):
        images_of(tmp_path)
    (tmp_path / 'val').rename(tmp_path / 'test')
    (tmp_path / 'data.yaml').write_text(
        'names: [cat]\n' + options.replace('val: val', 'test: test')
    )
    files = list_files(tmp_path)
    (split,) = read_yolo_folder(files)
    assert split.name == 'all' and len(split.content.images) == 4
    assert files.noted == [tmp_path / 'test/a.jpg']
    assert 'the 1 images of test have no label files' in files.notes[0]


@pytest.mark.parametrize('root', ['/home/me/ds', 'C:\\me\\ds', '../ds', '.'])
def test_lists_with_paths_of_another_machine_give_their_split(root, tmp_path):
    yolo(tmp_path, f"path: '{root}'\ntrain: train.txt\nval: '{root}/val.txt'\n")
    (tmp_path / 'other').mkdir()
    picture(tmp_path / 'other/3.jpg', 9)  # of the same name
    for split, numbers in dict(train='012', val='3').items():
        lines = [f'{root}/frames/{number}.jpg\n' for number in numbers]
        (tmp_path / f'{split}.txt').write_text(''.join(lines))
    expected = dict(train=[f'frames/{n}.jpg' for n in range(3)], val=['frames/3.jpg'])
    assert images_of(tmp_path) == expected
    (tmp_path / 'val.txt').write_text(f'{root}/frames/3.jpg\n{root}/missing/2.jpg\n')
    files = list_files(tmp_path)
    assert len(read_yolo_folder(files)) == 2
    assert files.notes == [
        f'1 lines of {tmp_path}/val.txt name no image, and are left out: {root}/missing/2.jpg'
    ]


def test_folders_of_another_machine_are_those_with_the_same_end(tmp_path):
    yolo(tmp_path, 'train: /content/ds/frames\nval: /content/ds/later/frames\n')
    (tmp_path / 'later/frames').mkdir(parents=True)
    picture(tmp_path / 'later/frames/9.jpg', 9)
    (tmp_path / 'later/frames/9.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    assert images_of(tmp_path)['val'] == ['later/frames/9.jpg']


@pytest.mark.parametrize('shape', ['[17, 3.0]', '[many, 3]', '[[17], 3]'])
def test_kpt_shape_that_is_not_of_whole_numbers_is_an_error(shape, tmp_path):
    yolo(tmp_path, f'kpt_shape: {shape}\n')
    with pytest.raises(InputError, match=r'data\.yaml: kpt_shape=\[.*, 3.*write it as kpt_shape:'):
        read_yolo_folder(list_files(tmp_path))


def voc_lists(root: Path, **lists: str) -> dict[str, list[str]]:
    """The names in each split of a folder with these image lists, by name and names."""
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate('abcd'):
        picture(root / f'JPEGImages/{name}.jpg', number)
        (root / f'Annotations/{name}.xml').write_text(XML)
    for split, names in lists.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
    return {
        split.name: [Path(image.path).stem for image in split.content.images]
        for split in read_voc_folder(list_files(root))
    }


@pytest.mark.parametrize(
    ('lists', 'splits'),
    [
        (dict(train='ab', trainval='abcd'), dict(train='ab', val='cd')),
        (dict(train='ab', trainval='ab'), dict(all='ab')),
        (dict(trainval='abc'), dict(all='abc')),
        (dict(train='ab', trainval='abc', test='d'), dict(train='ab', test='d')),
        (dict(train='ab', valid='cd'), dict(train='ab', val='cd')),
        (dict(training='ab', Validation='c', test2007='d'), dict(train='ab', val='c', test='d')),
        (dict(train='ab', val='cd', valid='dc'), dict(train='ab', val='cd')),
    ],
)
def test_images_of_trainval_that_are_not_in_train_are_for_validation(lists, splits, tmp_path):
    assert voc_lists(tmp_path, **lists) == {name: list(names) for name, names in splits.items()}


def coco_files(root: Path, **files: str) -> None:
    """Write COCO files by their names, each with images of these letters."""
    for number, (name, letters) in enumerate(files.items()):
        classes = ('dog', 'cat') if number % 2 else ('cat', 'dog')  # other ids for the same name
        images = [
            dict(id=n, file_name=f'{x}.jpg', width=48, height=40) for n, x in enumerate(letters)
        ]
        boxes = [
            dict(id=n, image_id=n, category_id=classes.index('cat'), bbox=[n, 1, 9, 9], area=81)
            for n in range(len(letters))
        ]
        categories = [dict(id=n, name=name) for n, name in enumerate(classes)]
        content = dict(images=images, annotations=boxes, categories=categories)
        (root / f'{name}.json').write_text(json.dumps(content))
        for letter in letters:
            picture(root / f'{letter}.jpg', ord(letter))


def of_splits(sets: Sets) -> dict[str, str]:
    """The letters of each split's images."""
    return {
        name: ''.join(sorted(image['file_name'][0] for image in raw['images']))
        for name, raw in sets.splits.items()
    }


def test_coco_files_of_one_split_are_joined_and_trainval_is_left_out_beside_both(tmp_path):
    coco_files(tmp_path, train_1='abc', train_2='de', val='fg', trainval='abcdefg')
    sets = read_sets(tmp_path, progress=False)
    assert of_splits(sets) == dict(train='abcde', val='fg') and sets.classes == ('cat', 'dog')
    train = sets.splits['train']
    assert [item['id'] for item in train['images']] == [1, 2, 3, 4, 5]
    files = {image['id']: image['file_name'] for image in train['images']}
    boxes = [
        (files[item['image_id']], item['category_id'], item['bbox'][0])
        for item in train['annotations']
    ]
    assert boxes == [(f'{x}.jpg', 1, n) for x, n in zip('abcde', (0, 1, 2, 0, 1), strict=True)]
    joined = f'2 COCO files are joined: {tmp_path}/train_1.json, {tmp_path}/train_2.json'
    assert f'train: {joined}' in sets.notes
    assert any('trainval is left out' in note for note in sets.notes)


def test_coco_files_without_split_names_are_joined_and_split(tmp_path):
    coco_files(tmp_path, batch_0='abcd', batch_1='efgh', batch_2='ij')
    sets = read_sets(tmp_path, progress=False)
    assert ''.join(sorted(''.join(of_splits(sets).values()))) == 'abcdefghij'
    assert len(sets.splits['val']['images']) == 2
    assert all(
        item['category_id'] == 1 for raw in sets.splits.values() for item in raw['annotations']
    )


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (dict(a='abc', b='cd'), r'/a\.json and \S+/b\.json both list \S+/c\.jpg; move one'),
        (dict(train_1='ab', train_2='bc', val='d'), r'train_1\.json and .* both list \S+/b\.jpg'),
        (dict(train='ab', more='c'), r'the name of \S+/more\.json does not show its split'),
    ],
)
def test_coco_files_that_overlap_or_only_partly_show_their_split_are_an_error(
    files, message, tmp_path
):
    coco_files(tmp_path, **files)
    with pytest.raises(InputError, match=message):
        read_sets(tmp_path, progress=False)


def test_coco_file_with_a_byte_order_mark_is_read(tmp_path):
    coco_files(tmp_path, all='abcde')
    file = tmp_path / 'all.json'
    file.write_text(file.read_text(), encoding='utf-8-sig')
    sets = read_sets(tmp_path, progress=False)
    assert sorted(''.join(of_splits(sets).values())) == [*'abcde']
    assert not any('byte order mark' in note for note in sets.notes)


def test_xmls_in_no_list_are_noted_and_their_images_are_not_called_unannotated(tmp_path):
    voc_lists(tmp_path, train='ab', dev='cd')
    sets = read_sets(tmp_path, progress=False)
    xmls = ', '.join(f'{tmp_path}/Annotations/{name}.xml' for name in 'cd')
    assert f'2 of 4 XMLs are in no list of images, and are left out: {xmls}' in sets.notes
    assert not any('in no annotation file' in note for note in sets.notes)


def test_missing_image_is_not_replaced_by_a_listed_one_of_its_name(tmp_path):
    (tmp_path / 'b').mkdir()
    coco_files(tmp_path / 'b', all='cde')
    file = tmp_path / 'b/all.json'
    content = json.loads(file.read_text())
    for image in content['images']:
        image['file_name'] = f'b/{image["file_name"]}'
    content['images'].append(dict(id=9, file_name='a/c.jpg', width=48, height=40))
    content['annotations'].append(dict(content['annotations'][0], id=9, image_id=9))
    file.unlink()
    (tmp_path / 'all.json').write_text(json.dumps(content))
    sets = read_sets(tmp_path, progress=False)
    boxes = [item['bbox'][0] for raw in sets.splits.values() for item in raw['annotations']]
    assert sorted(boxes) == [0, 1, 2]
    splits = find_splits(tmp_path, images=tmp_path)
    assert [image.path for image in splits[0].content.images][3] == f'{tmp_path}/a/c.jpg'
    kinds = {fault.kind for fault in splits[0].content.faults}
    assert 'image under another name' not in kinds
