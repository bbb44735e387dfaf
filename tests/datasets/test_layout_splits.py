"""The splits that a folder's own files define, and errors in these files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbam_det.datasets.layouts.files import list_files
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
