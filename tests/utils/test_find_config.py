"""Find a config by its path, in a library, or by the name of a shipped config."""

from __future__ import annotations

import pytest

from cbam_det.utils.config import find_config, read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS


def test_config_of_a_library_is_read_by_its_name():
    cfg = read_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    assert cfg.filename.endswith('retinanet_r18_fpn_1x_coco.py')
    assert cfg.model.backbone.depth == 18


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        (
            'mmdet::retinanet/retinanet_r19_fpn_1x_coco.py',
            "did you mean 'retinanet/retinanet_r18_fpn_1x",
        ),
        ('mmnothing::a.py', 'the library mmnothing is not installed'),
        ('../::a.py', 'the library ../ is not installed'),
    ],
)
def test_unknown_config_of_a_library_is_named_with_similar_ones(name, words):
    with pytest.raises(InputError, match=words):
        find_config(name)


def test_misspelt_file_is_named_with_similar_ones_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/raccoon.py').touch()
    monkeypatch.chdir(tmp_path / 'mine')
    with pytest.raises(InputError, match=r"no config racoon\.py .*; did you mean 'raccoon\.py'\?$"):
        find_config('racoon.py')
    with pytest.raises(InputError, match=r"did you mean '.*/mine/raccoon\.py'\?$"):
        find_config(str(tmp_path / 'mine/racoon.py'))
    with pytest.raises(InputError, match="did you mean 'faster_rcnn_r50_cbam_digits'"):
        find_config('faster_rcn_r50_cbam_digits')
    assert find_config('faster_rcnn_r50_cbam') == str(CONFIGS / 'faster_rcnn_r50_cbam.py')


def test_config_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.py').touch()
    assert find_config('~/mine.py') == str(tmp_path / 'mine.py')


@pytest.mark.parametrize('name', ['.', '..', '/'])
def test_a_folder_is_no_config(name):
    with pytest.raises(InputError, match='there is no config'):
        find_config(name)


@pytest.mark.parametrize('value', [4, 'x'])
def test_option_for_an_element_of_a_list_names_the_remedy(value):
    options = {'model.neck.in_channels.0': value}
    with pytest.raises(InputError, match='give the whole list'):
        read_config('faster_rcnn_r50_cbam', options)
