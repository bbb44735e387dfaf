"""The splits that a folder's own files define, and errors in these files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cbam_det.datasets.layouts.files import list_files
from cbam_det.datasets.layouts.sets import Sets, read_sets
from cbam_det.datasets.layouts.voc import read_voc_folder
from cbam_det.datasets.layouts.yolo import read_yolo_folder
from cbam_det.utils.errors import InputError

from .damaged_sets import XML, picture


def yolo(root: Path, options: str) -> None:
    """Write four images with labels in the folder `frames`, and `options` into `data.yaml`."""
    (root / 'frames').mkdir()
    for number in range(4):
        picture(root / f'frames/{number}.jpg', number)
        (root / f'frames/{number}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (root / 'data.yaml').write_text(f'names: [cat]\n{options}')


def test_split_of_data_yaml_without_images_is_noted_if_the_others_have_some(tmp_path):
    yolo(tmp_path, 'train: frames\nval: frame\n')
    (split,) = read_yolo_folder(list_files(tmp_path))
    assert split.name == 'all'
    assert split.notes == [f'no image was found for val: frame of {tmp_path}/data.yaml']


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
