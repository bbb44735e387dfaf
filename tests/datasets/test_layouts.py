"""Folders of unknown layout, missing folders, and images that no file lists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from cbam_det.datasets.layouts.files import PROJECT_FILES
from cbam_det.datasets.validation.folder import examine
from cbam_det.datasets.validation.unknown_layout import unknown_layout
from cbam_det.utils.errors import InputError

from .damaged_sets import XML, coco, entry, picture, voc
from .one_set import check_dataset
from .test_fix import with_usual_list


def side_by_side(root: Path) -> None:
    """Images and XMLs in one folder per split, without lists, as Roboflow writes them."""
    voc(root)
    for split in ('train', 'valid'):
        (root / split).mkdir()
        for file in (*(root / 'Annotations').iterdir(), *(root / 'JPEGImages').iterdir()):
            shutil.copy(file, root / split / file.name)
    for name in ('Annotations', 'JPEGImages'):
        shutil.rmtree(root / name)
    (root / 'train.txt').unlink()


def two_folders(root: Path) -> None:
    """Images, XMLs and a list, as users of labelImg have them."""
    voc(root)
    (root / 'Annotations').rename(root / 'annotations')
    (root / 'JPEGImages').rename(root / 'images')


@pytest.mark.parametrize(
    ('layout', 'parts', 'lists'),
    [
        (side_by_side, ['4 XMLs in {}/train/, {}/valid/', '4 images in {}/train/, {}/valid/'], 2),
        (two_folders, ['2 XMLs in {}/annotations/', '2 images in {}/images/'], 0),
    ],
)
def test_unknown_folder_with_xmls_is_described_with_the_lists_and_data_sets_that_read_it(
    layout, parts, lists, tmp_path
):
    root = tmp_path / 'my data'
    root.mkdir()
    layout(root)
    with pytest.raises(InputError) as caught:
        examine(root, progress=False)
    message = str(caught.value)
    assert f"init '{root}' --out PROJECT reads" in message.replace('.py', '')
    assert all(part.format(root, root) in message for part in parts)
    commands = re.findall(r"for f in .*?\.txt'", message)
    assert len(commands) == lists
    for command in commands:
        subprocess.run(['sh', '-c', command], check=True, cwd='/')
    datasets = re.findall(r"dict\(type='XMLDataset'.*?metainfo=\{.*?\}\)", message)
    assert len(datasets) == max(lists, 1)
    for text in datasets:
        dataset = ConfigDict(eval(text))
        assert dataset.metainfo.classes == ('cat', 'dog')
        assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))


def cameras(root: Path, images: tuple[str, str], annotations: tuple[str, str]) -> None:
    """Two folders of images and of XMLs, with the same file names."""
    for number, folder in enumerate(images):
        (root / folder).mkdir(parents=True)
        picture(root / folder / '000.jpg', number)
    for folder in annotations:
        (root / folder).mkdir(parents=True)
        (root / folder / '000.xml').write_text(XML)


@pytest.mark.parametrize(
    ('images', 'annotations'),
    [
        (('images/cam0', 'images/cam1'), ('xml/cam0', 'xml/cam1')),
        (('cam0/images', 'cam1/images'), ('cam0/xml', 'cam1/xml')),
        (('images/cam0', 'images/cam1'), ('cam0/xml', 'cam1/xml')),
    ],
)
@pytest.mark.parametrize('with_lists', [False, True])
def test_xmls_are_paired_with_the_images_of_the_folder_with_most_names_in_common(
    images, annotations, with_lists, tmp_path
):
    cameras(tmp_path, images, annotations)
    for name in ('cam0', 'cam1') if with_lists else ():
        (tmp_path / f'{name}.txt').write_text('000\n')
    message = str(unknown_layout(tmp_path))
    pairs = re.findall(r"ann_file='(.*?)', .*?ann_subdir='(.*?)', img_subdir='(.*?)'", message)
    assert [pair[1:] for pair in pairs] == list(zip(annotations, images, strict=True))
    assert len({pair[0] for pair in pairs}) == 2  # lists
    for command in re.findall(r'for f in .*?\.txt(?! )', message):
        subprocess.run(['sh', '-c', command.partition('; then use')[0]], check=True, cwd='/')
    assert all((tmp_path / pair[0]).read_text() == '000\n' for pair in pairs)


def test_no_config_is_printed_for_xmls_that_could_belong_to_several_folders(tmp_path):
    cameras(tmp_path, ('images/left', 'images/right'), ('xml/cam0', 'xml/cam1'))
    message = str(unknown_layout(tmp_path))
    assert 'dict(type=' not in message and message.endswith('PROJECT/baseline.py checks them')


def test_hidden_files_and_projects_inside_the_data_are_not_checked(tmp_path):
    coco(tmp_path)
    (tmp_path / 'train/.ipynb_checkpoints').mkdir()
    (tmp_path / 'train/study').mkdir()
    for name in ('train.json', 'train/one.jpg', 'train/.ipynb_checkpoints/one-checkpoint.jpg'):
        (tmp_path / name).with_name(f'._{Path(name).name}').write_bytes(b'\xb0')
    shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train/study/samples.png')
    for name in PROJECT_FILES:
        (tmp_path / 'train/study' / name).touch()
    (split,) = examine(tmp_path, progress=False)
    assert (split.name, split.notes, split.content.faults) == ('train', [], [])
    (tmp_path / 'train.json').unlink()
    with pytest.raises(InputError, match=r'it has 2 images in \S+/train/; convert'):
        examine(tmp_path, progress=False)
    voc(tmp_path)
    with_usual_list(tmp_path, ConfigDict())
    (tmp_path / 'ImageSets/Main/._train.txt').write_bytes(b'\xb0')
    (split,) = examine(tmp_path, progress=False)
    assert split.name == f'{tmp_path.name}/train'


def test_linked_folder_does_not_make_its_images_look_unlisted(tmp_path):
    coco(tmp_path)
    (tmp_path / 'JPEGImages').symlink_to('train')
    for index, name in enumerate(('one.jpg', 'number two.jpg')):
        entry('images', index, file_name=f'train/{name}')(tmp_path)
    (split,) = examine(tmp_path, tmp_path, progress=False)
    assert split.notes == []


def test_jsons_of_other_kinds_beside_a_coco_file_are_not_read(tmp_path):
    coco(tmp_path)
    for number in range(2):
        (tmp_path / f'{number}.json').write_text('{"shapes": [], "imagePath": "one.jpg"}')
    (tmp_path / 'train.json').rename(tmp_path / 'train.JSON')
    assert [split.name for split in examine(tmp_path, progress=False)] == ['train']
    (tmp_path / 'train.JSON').unlink()
    with pytest.raises(InputError, match=r"0\.json is not a COCO file: it lacks the list 'images'"):
        examine(tmp_path, progress=False)


def test_unknown_folder_without_xmls_is_described(tmp_path):
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels/a.txt').write_text('0 0.5 0.5 0.1 0.1\n')
    picture(tmp_path / 'a.jpg')
    with pytest.raises(InputError, match=r'1 images in \S+/, 1 text files in \S+/labels/; .*init'):
        examine(tmp_path, progress=False)


def test_missing_folder_is_reported_by_the_run_and_by_check_data(tmp_path):
    (tmp_path / 'coco').mkdir()
    dataset = coco(tmp_path / 'coco')
    (tmp_path / 'coco/train').rename(tmp_path / 'coco/pictures')
    with pytest.raises(InputError, match=r'no folder \S+/train, where the images .*data_prefix'):
        check_dataset(dataset)
    with pytest.raises(InputError, match=r'no folder \S+/coco/train, and the images'):
        examine(tmp_path / 'coco', progress=False)
    with pytest.raises(InputError, match=r'no folder \S+/elsewhere, where the images'):
        examine(tmp_path / 'coco', tmp_path / 'elsewhere', progress=False)
    for name in ('JPEGImages', 'Annotations'):
        root = tmp_path / name
        root.mkdir()
        dataset = voc(root)
        (root / 'ImageSets/Main').mkdir(parents=True)
        shutil.copy(root / 'train.txt', root / 'ImageSets/Main')
        shutil.rmtree(root / name)
        for check in (
            lambda r=root: examine(r),
            lambda d=dataset: check_dataset(d),
        ):
            with pytest.raises(InputError, match=f'no folder {root}/{name}, where the'):
                check()


def test_images_that_no_file_lists_are_counted(tmp_path):
    coco(tmp_path)
    (tmp_path / 'train/more').mkdir()
    for name in ('a.PNG', 'more/b.jpg'):
        shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train' / name)
    content = json.loads((tmp_path / 'train.json').read_text())
    content['images'][0]['file_name'] = 'ONE.jpg'  # the file is one.jpg
    (tmp_path / 'train.json').write_text(json.dumps(content))
    (split,) = examine(tmp_path, progress=False)
    folder = tmp_path / 'train'
    assert split.notes == [
        f'2 of 4 images in {folder} are in no annotation file: a.PNG, more/b.jpg'
    ]


@pytest.mark.parametrize('kind', ['CocoDataset', 'VOCDataset'])
def test_missing_ann_file_is_named_with_its_key(tmp_path, kind):
    (tmp_path / 'VOC2007').mkdir()
    dataset = dict(type=kind, data_root=str(tmp_path / 'VOC2007'))
    with pytest.raises(InputError, match=r'^train_dataloader\.dataset\.ann_file is missing'):
        check_dataset(dataset)


def test_images_that_a_file_lists_are_not_counted_if_the_folder_is_given_by_parent(
    tmp_path, monkeypatch
):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'code').mkdir()
    coco(tmp_path / 'data')
    monkeypatch.chdir(tmp_path / 'code')
    (split,) = examine(Path('../data'), progress=False)
    assert split.notes == []
