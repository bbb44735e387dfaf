"""Images of one name in several folders belong to the annotations of their own split."""

from __future__ import annotations

import shutil

import pytest

from cbam_det.utils.errors import InputError

from .layout_folders import items_of, labelimg_voc, roboflow_voc
from .test_sets import counts, read


@pytest.mark.parametrize('maker', [labelimg_voc, roboflow_voc])
def test_images_of_one_name_are_assigned_by_the_split_of_their_folder_only(maker, tmp_path, digits):
    items, classes = items_of(digits)
    numbers = {split: iter(range(99)) for split in ('train', 'val', 'test')}
    items = [item._replace(name=f'{next(numbers[item.split])}.jpg') for item in items]
    maker(tmp_path, items if maker is roboflow_voc else items[:4], classes)
    if maker is roboflow_voc:
        assert counts(read(tmp_path)) == dict(train=9, val=5, test=3)
        return
    shutil.copytree(tmp_path / 'pictures', tmp_path / 'copies')
    with pytest.raises(
        InputError, match=r'can be the annotation of .*give each image its own name'
    ):
        read(tmp_path)
