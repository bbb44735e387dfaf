"""`check_data CONFIG`: it checks data in folders of any name, and `--fix` corrects them."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from cbam_det.datasets.validation.config import check_data, fix_command
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options
from cbam_det.utils.run_config import RunConfig

from ..conftest import in_process
from .damaged_sets import XML, coco, voc
from .one_set import check_dataset
from .test_layouts import two_folders


def write_config(path: Path, train: dict, val: dict, **keys: object) -> Path:
    """Write a config with these data sets."""
    loaders = dict(
        train_dataloader=dict(batch_size=1, dataset=train),
        val_dataloader=dict(batch_size=1, dataset=val),
        test_dataloader=dict(batch_size=1, dataset=val),
    )
    values = dict(default_scope='mmdet', model=dict(bbox_head=dict(num_classes=2)), **loaders)
    values |= keys
    text = ''.join(f'{key} = {value!r}\n' for key, value in values.items())
    path.write_text(text.replace('ConfigDict', 'dict'))
    return path


def plain(dataset: ConfigDict, **keys: object) -> dict:
    return dict(dataset.to_dict(), **keys)


def printed_options(text: str) -> list[list[str]]:
    """The KEY=VALUE pairs of each printed line of `--cfg-options`."""
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith('--cfg-options')]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A config for folders of unusual names, with one image per split and a fault in training."""
    root = tmp_path / 'My lab (1)'
    root.mkdir()
    two_folders(root)
    (root / 'train.txt').write_text('one\n')
    (root / 'val.txt').write_text('number two\n')
    faulty = XML.replace('<xmax>25', '<xmax>5')
    (root / 'annotations/one.xml').write_text(faulty)
    data = dict(
        type='XMLDataset',
        data_root=f'{root}/',
        ann_subdir='annotations',
        img_subdir='images',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('cat', 'dog')),
    )
    train, val = dict(data, ann_file='train.txt'), dict(data, ann_file='val.txt', test_mode=True)
    train = dict(type='RepeatDataset', times=2, dataset=train)
    return write_config(tmp_path / 'mine.py', train, val)


def test_fix_for_a_config_prints_options_with_which_the_config_passes(lab, capsys):
    check = in_process('check_data')
    assert check(lab) == 1
    output = capsys.readouterr().out
    assert 'My lab (1)/train' in output and 'My lab (1)/val' in output
    assert check(lab, '--fix') == 0
    ((*pairs,),) = printed_options(capsys.readouterr().out)
    assert pairs == [
        f'train_dataloader.dataset.dataset.ann_file={lab.parent}/My lab (1)/train.txt',
        'train_dataloader.dataset.dataset.ann_subdir=annotations_clean',
    ]
    assert check(lab, '--cfg-options', *pairs) == 0
    cfg = Config.fromfile(lab)
    cfg.merge_from_dict(parse_options(pairs))
    check_data(RunConfig.from_cfg(cfg), ('train', 'val', 'test'))


def test_error_of_a_run_has_the_command_that_fixes_its_data(lab, capsys):
    cfg = Config.fromfile(lab)
    with pytest.raises(InputError, match='without area') as caught:
        check_data(RunConfig.from_cfg(cfg), ('train',))
    command = fix_command(RunConfig.from_cfg(cfg))
    assert f'or leave this entry out with {command}' in str(caught.value)
    tool, *words = shlex.split(command)[1:]
    assert Path(tool).name == 'check_data.py' and words[1] == '--data-root'
    assert in_process('check_data')(*words) == 0
    assert (lab.parent / 'My lab (1)/annotations_clean/one.xml').is_file()


def test_command_that_fixes_the_data_has_the_options_of_the_run(lab, capsys):
    """Without them it would read the config's own list, which does not exist."""
    root = lab.parent / 'My lab (1)'
    (root / 'train.txt').rename(root / 'my list.txt')
    key = 'train_dataloader.dataset.dataset.ann_file'
    cfg = copy.deepcopy(read_config(str(lab), {key: 'my list.txt', 'train_cfg': None}))
    with pytest.raises(InputError, match='without area') as caught:
        check_data(RunConfig.from_cfg(cfg), ('train',))
    command = fix_command(RunConfig.from_cfg(cfg))
    assert command in str(caught.value)
    assert command.endswith(f"--cfg-options '{key}=my list.txt' train_cfg=None --fix")
    assert in_process('check_data')(*shlex.split(command)[2:]) == 0


def test_cfg_options_can_be_given_several_times():
    for name in ('train', 'test', 'check_data', 'places'):
        words = ['mine.py', 'weights.pth'] if name == 'test' else ['mine.py']
        words += ['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'a=3']
        args = in_process(name).module.parse_args(words)
        assert parse_options(args.cfg_options) == dict(a=3, b=2)


def test_clean_file_of_an_evaluation_has_options_for_dataloaders_and_evaluators(tmp_path, capsys):
    dataset = coco(tmp_path)
    content = json.loads((tmp_path / 'train.json').read_text())
    for name, index in (('train', 0), ('val', 1)):
        image = content['images'][index]
        boxes = [box for box in content['annotations'] if box['image_id'] == image['id']]
        if name == 'val':
            boxes = [dict(box, id=box['id'] + 9) for box in boxes] + boxes
        (tmp_path / f'{name}.json').write_text(
            json.dumps(dict(content, images=[image], annotations=boxes))
        )
    val = plain(dataset, ann_file='val.json', test_mode=True)
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'val.json'), metric='bbox')
    path = write_config(
        *(tmp_path / 'mine.py', plain(dataset), val),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
    )
    check = in_process('check_data')
    assert check(path, '--fix') == 0
    ((*pairs,),) = printed_options(capsys.readouterr().out)
    assert dict(pair.split('=') for pair in pairs) == dict.fromkeys(
        [
            *('val_dataloader.dataset.ann_file', 'test_dataloader.dataset.ann_file'),
            *('val_evaluator.ann_file', 'test_evaluator.ann_file'),
        ],
        str(tmp_path / 'val_clean.json'),
    )
    assert check(path, '--cfg-options', *pairs) == 0


def test_image_in_training_and_validation_is_an_error_unless_the_config_allows_it(tmp_path, capsys):
    dataset = coco(tmp_path)
    path = write_config(tmp_path / 'mine.py', plain(dataset), plain(dataset, test_mode=True))
    assert in_process('check_data')(path) == 1
    message = (
        'one.jpg is also in val_dataloader (and 1 more such faults); remove it from one of them'
    )
    assert message in capsys.readouterr().err.replace('number two', 'one')
    cfg = Config.fromfile(path)
    cfg.preflight = dict(allow_shared_images=True)
    check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    assert 'same image in two splits: 2 (' in capsys.readouterr().out
    option = 'preflight.allow_shared_images=True'
    assert in_process('check_data')(path, '--cfg-options', option) == 0


def test_different_parts_of_one_file_are_not_the_same_images(tmp_path):
    dataset = coco(tmp_path)
    val = plain(dataset, test_mode=True, indices=[1])
    path = write_config(tmp_path / 'mine.py', plain(dataset, indices=1), val)
    check_data(RunConfig.from_cfg(Config.fromfile(path)), ('train', 'val'))


def test_config_is_checked_even_if_the_data_have_no_faults(tmp_path, capsys):
    dataset = voc(tmp_path)
    shutil.copytree(tmp_path / 'JPEGImages', tmp_path / 'others')
    for file in (tmp_path / 'others').iterdir():
        file.write_bytes(file.read_bytes() + b'other')
    val = plain(dataset, test_mode=True, img_subdir='others', metainfo=dict(classes=('dog', 'cat')))
    path = write_config(tmp_path / 'mine.py', plain(dataset), val)
    assert in_process('check_data')(path) == 2
    assert 'labels would have wrong names' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['mine.py', '--images', 'x'], '--images is only for folders, but mine.py is a config'),
        (['.', '--cfg-options', 'a=1'], '--cfg-options is only for configs, but . is not a config'),
        (['other.py'], 'no config other.py'),
        (['nowhere'], 'no data folder nowhere'),
    ],
)
def test_unsuitable_options_and_missing_files_are_errors(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    dataset = voc(tmp_path)
    write_config(tmp_path / 'mine.py', plain(dataset), plain(dataset))
    assert in_process('check_data')(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize(
    ('loader', 'is_refused'),
    [
        (dict(type='LoadImageFromFile'), True),
        (dict(type='LoadImageFromFile', imdecode_backend='tifffile'), False),
        (dict(type='LoadScan'), False),
    ],
)
def test_files_of_another_loader_need_not_be_pictures_to_opencv(loader, is_refused, full, tmp_path):
    steps = [loader, dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    dataset = dict(coco(tmp_path), pipeline=steps)
    for path in (tmp_path / 'train').iterdir():
        path.write_bytes(b'a scan of a microscope ' + path.name.encode())
    if is_refused:
        with pytest.raises(InputError, match='unreadable'):
            check_dataset(dataset, full)
    else:
        assert check_dataset(dataset, full).images == 2


def test_a_file_name_with_capital_letters_is_a_coco_file(tmp_path, capsys):
    coco(tmp_path)
    (tmp_path / 'train.json').rename(tmp_path / 'TRAIN.JSON')
    assert in_process('check_data')(tmp_path / 'TRAIN.JSON', '--images', tmp_path / 'train') == 0


@pytest.mark.parametrize('has_objects', [False, True])
def test_equal_images_are_refused_only_if_one_has_objects(has_objects, tmp_path):
    dataset = dict(coco(tmp_path), filter_cfg={})
    content = json.loads((tmp_path / 'train.json').read_text())
    for number in (3, 4):
        shutil.copy(tmp_path / 'train/one.jpg', tmp_path / f'train/{number}.jpg')
        content['images'].append(dict(content['images'][0], id=number, file_name=f'{number}.jpg'))
    if not has_objects:
        annotations = content['annotations']
        content['annotations'] = [item for item in annotations if item['image_id'] != 1]
    (tmp_path / 'train.json').write_text(json.dumps(content))
    if has_objects:
        with pytest.raises(InputError, match='same image as'):
            check_dataset(dataset)
    else:
        assert check_dataset(dataset).images == 4
