"""`check_data CONFIG`: data that a config alone describes, and `--fix` for it."""

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
from .damaged_sets import XML, coco, swap, voc
from .test_layouts import two_folders


def write_config(path: Path, train: dict, val: dict, **keys: object) -> Path:
    """A config of nothing but data."""
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
    """The pairs of each line of `--cfg-options`."""
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith('--cfg-options')]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Images and XMLs in folders of other names, the training's with a fault; one in each list."""
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


def test_fix_for_a_config_names_its_own_places_and_the_config_then_passes(lab, capsys):
    check = in_process('check_data')
    assert check(lab) == 1
    said = capsys.readouterr().out
    assert 'My lab (1)/train' in said and 'My lab (1)/val' in said
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


def test_run_names_the_command_that_fixes_the_data_of_its_config(lab, capsys):
    cfg = Config.fromfile(lab)
    with pytest.raises(InputError, match='without area') as caught:
        check_data(RunConfig.from_cfg(cfg), ('train',))
    command = fix_command(RunConfig.from_cfg(cfg))
    assert f'or leave it out by {command}' in str(caught.value)
    tool, *words = shlex.split(command)[1:]
    assert Path(tool).name == 'check_data.py' and words[1] == '--data-root'
    assert in_process('check_data')(*words) == 0
    assert (lab.parent / 'My lab (1)/annotations_clean/one.xml').is_file()


def test_command_that_fixes_the_data_has_the_options_of_the_run(lab, capsys):
    """Without them it would read the list that the config itself names, which is not there."""
    root = lab.parent / 'My lab (1)'
    (root / 'train.txt').rename(root / 'my list.txt')
    key = 'train_dataloader.dataset.dataset.ann_file'
    cfg = copy.deepcopy(read_config(str(lab), {key: 'my list.txt', 'train_cfg': None}))
    with pytest.raises(InputError, match='without area') as caught:
        check_data(RunConfig.from_cfg(cfg), ('train',))
    command = fix_command(RunConfig.from_cfg(cfg))
    assert command in str(caught.value)
    assert command.endswith(f"--fix --cfg-options '{key}=my list.txt' train_cfg=None")
    assert in_process('check_data')(*shlex.split(command)[2:]) == 0


def test_options_of_a_remedy_are_added_to_those_that_were_given():
    for name in ('train', 'test', 'check_data', 'places'):
        words = ['mine.py', 'weights.pth'] if name == 'test' else ['mine.py']
        words += ['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'a=3']
        args = in_process(name).module.parse_args(words)
        assert parse_options(args.cfg_options) == dict(a=3, b=2)


def test_clean_file_of_an_evaluation_is_named_to_the_loaders_and_their_evaluators(tmp_path, capsys):
    dataset = coco(tmp_path)
    content = json.loads((tmp_path / 'train.json').read_text())
    for name, index in (('train', 0), ('val', 1)):
        image = content['images'][index]
        boxes = [one for one in content['annotations'] if one['image_id'] == image['id']]
        if name == 'val':
            boxes = [dict(one, id=one['id'] + 9) for one in boxes] + boxes
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


def test_image_of_training_and_validation_is_refused_unless_the_config_allows_it(tmp_path, capsys):
    dataset = coco(tmp_path)
    path = write_config(tmp_path / 'mine.py', plain(dataset), plain(dataset, test_mode=True))
    assert in_process('check_data')(path) == 1
    words = 'one.jpg is in val_dataloader too (and 1 more such faults); take it out of one of them'
    assert words in capsys.readouterr().err.replace('number two', 'one')
    cfg = Config.fromfile(path)
    cfg.preflight = dict(allow_shared_images=True)
    check_data(RunConfig.from_cfg(cfg), ('train', 'val'))
    assert 'same image in two splits: 2 (' in capsys.readouterr().out
    option = 'preflight.allow_shared_images=True'
    assert in_process('check_data')(path, '--cfg-options', option) == 0


def test_parts_of_one_file_are_not_taken_for_the_same_images(tmp_path):
    dataset = coco(tmp_path)
    val = plain(dataset, test_mode=True, indices=[1])
    path = write_config(tmp_path / 'mine.py', plain(dataset, indices=1), val)
    check_data(RunConfig.from_cfg(Config.fromfile(path)), ('train', 'val'))


def test_what_the_config_makes_of_sound_data_is_checked_too(tmp_path, capsys):
    dataset = voc(tmp_path)
    shutil.copytree(tmp_path / 'JPEGImages', tmp_path / 'others')
    for file in (tmp_path / 'others').iterdir():
        file.write_bytes(file.read_bytes() + b'other')
    val = plain(dataset, test_mode=True, img_subdir='others', metainfo=dict(classes=('dog', 'cat')))
    path = write_config(tmp_path / 'mine.py', plain(dataset), val)
    assert in_process('check_data')(path) == 2
    assert 'a label would be called by another name' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['mine.py', '--images', 'x'], '--images is for a folder alone'),
        (['.', '--cfg-options', 'a=1'], '--cfg-options is for a config, and this is not one'),
        (['other.py'], 'no config other.py'),
        (['nowhere'], 'no data folder nowhere'),
    ],
)
def test_options_of_the_other_kind_and_what_is_not_there_are_named(
    arguments, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    dataset = voc(tmp_path)
    swap('<width>48', '<width>48')(tmp_path)
    write_config(tmp_path / 'mine.py', plain(dataset), plain(dataset))
    assert in_process('check_data')(*arguments) == 2
    assert said in capsys.readouterr().err
