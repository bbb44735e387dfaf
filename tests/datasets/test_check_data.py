"""check_data on folders: the faults that it finds, its clean files, and what it does not change."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import unicodedata
from pathlib import Path
from unittest import mock

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from cbam_det.datasets.validation.clean import clean, config_options, write_clean
from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.datasets.validation.folder import examine
from cbam_det.datasets.validation.published import COCO_TOTALS
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import RunConfig

from ..conftest import CONFIGS, in_process
from .damaged_sets import XML, coco, entry, swap, voc
from .one_set import check_dataset


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


def kinds(root: Path) -> dict[str, list[str]]:
    """The kinds of the harmful faults of each split."""
    return {
        split.name: [fault.kind for fault in split.content.faults if fault.harmful]
        for split in examine(root, progress=False)
    }


@pytest.fixture
def full_voc(tmp_path: Path) -> tuple[Path, ConfigDict]:
    """The small VOC set, with its list in the usual place."""
    dataset = voc(tmp_path)
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'train.txt').rename(tmp_path / 'ImageSets/Main/train.txt')
    dataset.ann_file = 'ImageSets/Main/train.txt'
    init_default_scope('mmdet')
    return tmp_path, dataset


def test_status_is_0_for_a_folder_without_faults_in_both_layouts(digits, capsys):
    check = in_process('check_data')
    for folder in (digits, digits / 'VOCdevkit', digits / 'VOCdevkit/VOC2007'):
        assert check(folder) == 0
        output = capsys.readouterr().out
        assert ('instances_train2017' if folder == digits else 'VOC2007/trainval') in output


def test_fix_writes_a_clean_file_that_the_run_accepts_and_changes_no_other(tmp_path, capsys):
    dataset = coco(tmp_path)
    entry('annotations', 0, 'area', 'iscrowd', id=4)(tmp_path)  # filled in, and numbered anew
    entry('annotations', 1, bbox=[0, 0, 0, 9])(tmp_path)  # left out
    (tmp_path / 'train/number two.jpg').write_bytes(b'\xff\xd8')  # left out with its boxes
    before = contents(tmp_path)
    check = in_process('check_data')
    assert check(tmp_path) == 1
    assert contents(tmp_path) == before
    assert check(tmp_path, '--fix') == 0
    output = capsys.readouterr().out
    path = tmp_path / 'train_clean.json'
    assert f'--cfg-options train_dataloader.dataset.ann_file={path}' in output
    assert 'train_clean.json, without 1 images and 3 objects; to use it:' in output
    assert {key: value for key, value in contents(tmp_path).items() if key != path} == before
    made = json.loads(path.read_text())
    assert [image['file_name'] for image in made['images']] == ['one.jpg']
    (box,) = made['annotations']
    assert (box['area'], box['iscrowd'], box['bbox']) == (480, 0, [5, 6, 20, 24])
    init_default_scope('mmdet')
    dataset.ann_file = path.name
    assert str(check_dataset(dataset, full=True)).endswith('1 images, 1 objects, 2 classes')


def test_fix_repeats_itself_and_overwrites_nothing_else(tmp_path, capsys):
    coco(tmp_path)
    entry('annotations', 0, 'bbox')(tmp_path)
    check = in_process('check_data')
    assert check(tmp_path, '--fix') == check(tmp_path, '--fix') == 0
    (tmp_path / 'train_clean.json').write_text('mine')
    assert check(tmp_path, '--fix') == 2
    assert 'train_clean.json exists and has other content' in capsys.readouterr().err
    assert (tmp_path / 'train_clean.json').read_text() == 'mine'


def test_two_images_of_one_id_are_left_out_with_their_boxes(tmp_path):
    coco(tmp_path)
    entry('images', 1, id=1)(tmp_path)
    entry('annotations', 2, image_id=1)(tmp_path)
    (split,) = examine(tmp_path, progress=False)
    with pytest.raises(InputError, match=r'nothing in .* could be kept'):
        clean(split)
    entry('images', 1, file_name='one.jpg')(tmp_path)  # the same image, listed twice
    (split,) = examine(tmp_path, progress=False)
    made = json.loads(clean(split)[0][tmp_path / 'train_clean.json'])
    assert len(made['images']) == 1 and [
        annotation['id'] for annotation in made['annotations']
    ] == [1, 2, 3]


def test_voc_boxes_are_left_out_in_copies_of_the_xmls_and_images_in_a_list(full_voc):
    root, dataset = full_voc
    swap('<xmax>25', '<xmax>5')(root)
    (split,) = examine(root, progress=False)
    files, options, *_ = clean(split)
    write_clean(files)
    assert set(files) == {root / f'Annotations_clean/{name}.xml' for name in ('one', 'number two')}
    assert options == dict(
        ann_file=str(root / 'ImageSets/Main/train.txt'), ann_subdir='Annotations_clean'
    )
    assert clean(split)[2:] == (0, 1)
    assert (root / 'Annotations_clean/number two.xml').read_text() == XML
    dataset.ann_subdir = 'Annotations_clean'
    assert 'train.txt: 2 images, 3 objects' in str(check_dataset(dataset, full=True))
    (root / 'JPEGImages/one.jpg').unlink()
    (split,) = examine(root, progress=False)
    files, options, *_ = clean(split)
    assert files == {root / 'ImageSets/Main/train_clean.txt': b'number two\n'}
    assert clean(split)[2:] == (1, 2)
    line = config_options(split, options)
    made = root / 'ImageSets/Main/train_clean.txt'
    assert line == f'--cfg-options train_dataloader.dataset.ann_file={made}'


def test_wrong_size_in_an_xml_is_read_from_the_image(full_voc):
    root, dataset = full_voc
    swap('<width>48', '<width>0')(root)
    (split,) = examine(root, progress=False)
    write_clean(clean(split)[0])
    dataset.ann_subdir = 'Annotations_clean'
    assert '<width>48<' in (root / 'Annotations_clean/one.xml').read_text()
    assert check_dataset(dataset, full=True).notes == []


def test_fix_that_failed_on_a_full_disk_is_completed_by_the_next_call(full_voc, monkeypatch):
    root, _ = full_voc
    swap('<xmax>25', '<xmax>5')(root)
    (split,) = examine(root, progress=False)
    files = clean(split)[0]
    full = mock.Mock(side_effect=[None, OSError(errno.ENOSPC, 'full')])
    with monkeypatch.context() as patched, pytest.raises(OSError, match='full'):
        patched.setattr(os, 'fsync', full)
        write_clean(files)
    assert len(list((root / 'Annotations_clean').iterdir())) == 1
    write_clean(files)
    assert all(path.read_bytes() == data for path, data in files.items())


def test_options_that_fix_prints_for_both_years_of_voc_make_a_config_pass(tmp_path, capsys):
    cfg = Config.fromfile(CONFIGS / 'retinanet_r50_cbam_voc.py')
    set_data_root(cfg, str(tmp_path))
    for year in ('VOC2007', 'VOC2012'):
        root = tmp_path / year
        root.mkdir()
        voc(root)
        for path in root.glob('JPEGImages/*'):  # other bytes than the other year's
            path.write_bytes(path.read_bytes() + year.encode())
        (root / 'ImageSets/Main').mkdir(parents=True)
        (root / 'train.txt').rename(root / 'ImageSets/Main/trainval.txt')
    swap('<xmax>25', '<xmax>5')(tmp_path / 'VOC2007')
    (tmp_path / 'VOC2007/JPEGImages/number two.jpg').unlink()
    (tmp_path / 'VOC2012/JPEGImages/one.jpg').unlink()
    with pytest.raises(InputError):
        check_data(RunConfig.from_cfg(cfg), ('train',))
    assert in_process('check_data')(tmp_path, '--fix') == 0
    printed = re.findall(r'in the data set of (\S+): (.+)', capsys.readouterr().out)
    assert printed == [
        (
            'VOC2007/trainval',
            f'ann_file={tmp_path}/VOC2007/ImageSets/Main/trainval_clean.txt '
            'ann_subdir=Annotations_clean',
        ),
        (
            'VOC2012/trainval',
            f'ann_file={tmp_path}/VOC2012/ImageSets/Main/trainval_clean.txt',
        ),
    ]
    for number, (_, options) in enumerate(printed):
        key = f'train_dataloader.dataset.dataset.datasets.{number}'
        cfg.merge_from_dict(dict(f'{key}.{option}'.split('=') for option in options.split()))
    check_data(RunConfig.from_cfg(cfg), ('train',))


def test_image_in_two_splits_is_found_by_its_bytes(digits, tmp_path, capsys):
    root = Path(shutil.copytree(digits, tmp_path / 'digits'))
    shutil.copy(root / 'train2017/000000000003.jpg', root / 'val2017/000000000013.jpg')
    assert kinds(root) == {
        'instances_train2017': ['same image in two splits'],
        'instances_val2017': [],
    }
    (root / 'VOCdevkit/VOC2007/ImageSets/Main/test.txt').write_text('000000000001\n')
    voc_kinds = kinds(root / 'VOCdevkit')
    assert voc_kinds['VOC2007/test'] == 2 * ['same image in two splits']  # train, trainval
    assert in_process('check_data')(root) == 1
    assert 'allow_shared_images' not in capsys.readouterr().out  # only configs have this option
    assert voc_kinds['VOC2007/val'] == voc_kinds['VOC2007/train'] == []  # trainval has both


def test_published_totals_are_compared_if_classes_and_size_are_coco_s(tmp_path, monkeypatch):
    coco(tmp_path)
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'train').rename(tmp_path / 'val2017')
    (tmp_path / 'train.json').rename(tmp_path / 'annotations/instances_val2017.json')
    (split,) = examine(tmp_path, progress=False)  # another data set with COCO's file names
    assert not [fault for fault in split.content.faults if fault.kind == 'count']
    file = tmp_path / 'annotations/instances_val2017.json'
    names = enumerate(CocoDataset.METAINFO['classes'], 1)
    categories = [dict(id=number, name=name) for number, name in names]
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(categories=categories)))
    (split,) = examine(tmp_path, progress=False)  # a small set of COCO's classes and file names
    assert not [fault for fault in split.content.faults if fault.kind == 'count']
    assert '2 images; the published set of this name has 5,000' in split.notes
    assert COCO_TOTALS['instances_train2017'] == (118_287, 860_001)
    monkeypatch.setitem(COCO_TOTALS, 'instances_val2017', (3, 5))
    (split,) = examine(tmp_path, progress=False)
    assert [fault.message for fault in split.content.faults if fault.kind == 'count'] == [
        'lists 2 images; the published set has 3',
        'lists 4 objects; the published set has 5',
    ]


def test_error_for_an_unknown_folder_describes_both_layouts(tmp_path, capsys):
    check = in_process('check_data')
    assert check(tmp_path / 'nowhere') == 2
    assert check(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith(f'error: no data folder {tmp_path}/nowhere')
    assert check(tmp_path / 'none.json') == 2
    assert f'no annotation file {tmp_path}/none.json' in capsys.readouterr().err
    assert 'instances_train2017.json' in error[1] and 'ImageSets/Main/' in error[1]
    (tmp_path / 'yolo').mkdir()
    for name in ('a.jpg', 'a.txt'):
        (tmp_path / 'yolo' / name).touch()
    assert check(tmp_path / 'yolo') == 2
    assert f'{tmp_path}/yolo --out PROJECT reads VOC and YOLO files' in capsys.readouterr().err
    coco(tmp_path)
    (tmp_path / 'train').rename(tmp_path / 'elsewhere')
    assert check(tmp_path) == 2
    assert 'give their folder with --images' in capsys.readouterr().err
    assert check(tmp_path, '--images', tmp_path / 'elsewhere') == 0


def test_single_coco_file_is_checked_alone(tmp_path, capsys):
    dataset = coco(tmp_path)
    check = in_process('check_data')
    (tmp_path / 'notes.json').write_text('{}')
    assert check(tmp_path / 'train.json') == 0
    assert 'train' in capsys.readouterr().out
    (tmp_path / 'annotations').mkdir()
    file = (tmp_path / 'train.json').rename(tmp_path / 'annotations/mine.json')
    assert check(file) == 2
    assert 'give their folder with --images' in capsys.readouterr().err
    assert check(file, '--images', tmp_path / 'train') == 0
    assert check(file, '--cfg-options', 'a=1') == 2
    assert check(tmp_path / 'notes.json') == 2
    assert "notes.json is not a COCO file: it lacks the list 'images'" in capsys.readouterr().err
    config = dict(train_dataloader=dict(dataset=dataset.to_dict(), batch_size=1))
    config['train_dataloader']['dataset'].update(ann_file='annotations/mine.json')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert check(tmp_path / 'config.json') == 0


def test_check_of_a_config_says_how_an_image_may_be_in_two_splits(tmp_path, capsys):
    dataset = coco(tmp_path).to_dict()
    config = {
        f'{split}_dataloader': dict(dataset=dict(dataset, test_mode=split == 'val'), batch_size=1)
        for split in ('train', 'val')
    }
    (tmp_path / 'config.json').write_text(json.dumps(config))
    check = in_process('check_data')
    assert check(tmp_path / 'config.json') == 1
    assert 'preflight.allow_shared_images=True' in ' '.join(capsys.readouterr().out.split())
    assert (
        check(tmp_path / 'config.json', '--cfg-options', 'preflight.allow_shared_images=True') == 0
    )


@pytest.mark.parametrize(
    'name', ['../../server/upload/1/{}', '/home/me/pics/{}', 'C:\\Users\\me\\{}', 'old/{}']
)
def test_images_with_folders_of_another_machine_are_found_in_the_given_folder(
    name, tmp_path, capsys
):
    dataset = coco(tmp_path)
    for index, file in enumerate(('one.jpg', 'number two.jpg')):
        entry('images', index, file_name=name.format(file))(tmp_path)
    (tmp_path / 'train').rename(tmp_path / 'pictures')
    check, options = in_process('check_data'), (tmp_path, '--images', tmp_path / 'pictures')
    assert check(tmp_path) == 2
    assert 'give their folder with --images' in capsys.readouterr().err
    assert check(*options) == 1
    (split,) = examine(*options[::2], progress=False)
    assert {fault.kind for fault in split.content.faults} == {'image under another name'}
    assert check(*options, '--fix') == 0
    dataset.update(ann_file='train_clean.json', data_prefix=dict(img='pictures/'))
    assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))


def test_image_that_can_be_several_files_is_not_chosen(tmp_path):
    coco(tmp_path)
    for name in ('a', 'b'):
        (tmp_path / 'train' / name).mkdir()
        shutil.copy(tmp_path / 'train/one.jpg', tmp_path / 'train' / name / 'three.jpg')
    entry('images', 0, file_name='c/three.jpg')(tmp_path)
    (split,) = examine(tmp_path, tmp_path / 'train', progress=False)
    assert [fault.kind for fault in split.content.faults] == ['image missing']
    note = '1 missing images have the name of several files, for example c/three.jpg: '
    assert split.notes[0].startswith(note)


@pytest.mark.parametrize('in_file', ['NFC', 'NFD'])
def test_accents_of_macos_are_another_name_that_fix_writes(in_file, tmp_path):
    on_disk = 'NFD' if in_file == 'NFC' else 'NFC'
    dataset = coco(tmp_path)
    entry('images', 0, file_name=unicodedata.normalize(in_file, 'Müller.jpg'))(tmp_path)
    name = unicodedata.normalize(on_disk, 'Müller.jpg')
    (tmp_path / 'train/one.jpg').rename(tmp_path / 'train' / name)
    (split,) = examine(tmp_path, progress=False)
    (fault,) = split.content.faults
    assert fault.kind == 'image under another name' and 'accents' in fault.message
    assert not any('no annotation file' in note for note in split.notes)
    files = clean(split).files
    assert len(files) == 1
    write_clean(files)
    dataset.ann_file = 'train_clean.json'
    assert '2 images, 4 objects' in str(check_dataset(dataset, full=True))


def test_union_of_train_and_val_may_have_images_of_both(tmp_path, capsys):
    coco(tmp_path)
    content = json.loads((tmp_path / 'train.json').read_text())
    (tmp_path / 'train.json').rename(tmp_path / 'trainval.json')
    for index, split in enumerate(('train', 'val')):
        image = content['images'][index]
        boxes = [item for item in content['annotations'] if item['image_id'] == image['id']]
        part = dict(content, images=[image], annotations=boxes)
        (tmp_path / f'{split}.json').write_text(json.dumps(part))
    assert in_process('check_data')(tmp_path, '--images', tmp_path / 'train') == 0
