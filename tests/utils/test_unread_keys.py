"""Keys of a config that have no effect are named: mmdet 2.x's, and those that nothing reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from cbam_det.engine import preflight
from cbam_det.engine.runner import CheckedRunner
from cbam_det.utils.config import override, read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.unread_keys import OLD_KEYS, refuse_old_keys, unused_keys

from ..conftest import CONFIG, in_process

OPTIMIZER = "optimizer = dict(type='SGD', lr=0.0025, momentum=0.9)\n"
HALF = f"""{OPTIMIZER}optimizer_config = dict(grad_clip=dict(max_norm=35))
lr_config = dict(policy='step', warmup='linear', step=[1])
runner = dict(type='EpochBasedRunner', max_epochs=2)
checkpoint_config = dict(interval=1)
evaluation = dict(interval=1, metric='bbox')
resume_from = 'work_dirs/old/epoch_8.pth'
total_epochs = 12
workflow = [('train', 1)]
"""
OLD_DATA = """classes = ('cat', 'dog')
data = dict(samples_per_gpu=2, train=dict(type='CocoDataset', classes=classes))
"""


def written(folder: Path, text: str, base: Path | str = CONFIG) -> Path:
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}')
    return path


def small_base(folder: Path) -> Path:
    path = folder / 'base.py'
    path.write_text("""data = dict(data_root='data/', metainfo=dict(classes=('cat',)))
train_dataset = dict(type='RepeatDataset', times=3, dataset=dict(type='CocoDataset', **data))
train_dataloader = dict(batch_size=2, dataset=train_dataset)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1))
randomness = dict(seed=0)
""")
    return path


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_every_key_of_mmdet_2_is_named_with_its_place_before_anything_else(
    tool, tmp_path, monkeypatch, capsys
):
    """There is no data, and the checkpoint is empty, which would be the next errors."""
    monkeypatch.chdir(tmp_path)
    Path('empty.pth').touch()
    arguments = [written(tmp_path, HALF + OLD_DATA), 'empty.pth'][: 1 + (tool == 'test')]
    assert in_process(tool)(*arguments) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith('error: mine.py has keys of mmdet 2.x that would have no effect: ')
    named = re.findall(r'(\w+) \(now ([^)]+)\)', error)
    assert dict(named) == {
        key: OLD_KEYS[key]
        for key in (
            *('optimizer', 'optimizer_config', 'lr_config', 'runner', 'checkpoint_config'),
            *('evaluation', 'resume_from', 'total_epochs', 'workflow', 'data'),
        )
    }
    assert {path.name for path in tmp_path.iterdir()} == {'mine.py', 'empty.pth'}


def test_options_of_mmdet_2_are_refused_whatever_the_config_has(tmp_path):
    for text in ('', HALF):
        cfg = Config.fromfile(written(tmp_path, text, small_base(tmp_path)))
        for key in ('optimizer', 'data', 'train_dataset', 'runner', 'fp16'):
            with pytest.raises(InputError, match=f'the option {key} .* now ') as caught:
                override(cfg, {f'{key}.lr': 0.001})
            assert str(caught.value).endswith(OLD_KEYS[key])


@pytest.mark.parametrize(
    ('text', 'refused'),
    [
        # The base, like YOLOX's, uses the variable of this name before the config changes it.
        ('', False),
        ('train_dataset = dict(times=2)', True),
        ('train_dataset = dict(times=3)', False),
        ('train_dataset = dict(times=2)\ntrain_dataset["times"] = 4', True),
        ('train_dataset = dict(times=2)\ntrain_dataloader = dict(dataset=train_dataset)', False),
        # The base has a variable `data`, which is not the key of 2.x.
        ('data = dict(data_root="elsewhere/")', False),
        (OLD_DATA, True),
        (OPTIMIZER, True),
        (f'{OPTIMIZER}optim_wrapper = dict(optimizer=optimizer)', False),
        ('seed = 3\nrandomness = dict(seed=seed)', False),
        ('seed = 3', True),
        ('resume_from = None', False),
    ],
)
def test_key_of_mmdet_2_is_a_variable_where_the_config_uses_it(text, refused, tmp_path):
    cfg = Config.fromfile(written(tmp_path, text, small_base(tmp_path)))
    dumped = tmp_path / 'dumped.py'
    cfg.dump(dumped)
    for config in (cfg, Config.fromfile(dumped)):
        if refused:
            with pytest.raises(InputError, match='keys of mmdet 2'):
                refuse_old_keys(config)
        else:
            refuse_old_keys(config)


def test_mmdet_s_own_tools_with_our_runner_refuse_them_too(tmp_path, monkeypatch):
    cfg = Config.fromfile(written(tmp_path, HALF, small_base(tmp_path)))
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: pytest.fail('a runner was built'))
    with pytest.raises(InputError, match='lr_config'):
        CheckedRunner.from_cfg(cfg)


def test_key_that_its_base_has_used_before_is_warned_of(tmp_path, capsys):
    """A frequent mistake: the config sets the pipeline, but the loader keeps the base's."""
    text = "train_pipeline = [dict(type='LoadImageFromFile')]\nmy_note = 'x'\n_own = 1\n"
    base = small_base(tmp_path)
    cfg = read_config(str(written(tmp_path, text, base)))
    assert unused_keys(cfg) == ['train_pipeline', 'my_note']
    preflight.check_names(cfg)
    warning = 'MMEngine does not read the key {} of the config, and the config does not use it'
    lines = capsys.readouterr().out.splitlines()
    assert lines == [warning.format('train_pipeline'), warning.format('my_note')]
    used = 'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n'
    assert unused_keys(read_config(str(written(tmp_path, text + used, base)))) == ['my_note']


def test_a_config_whose_file_is_gone_is_read_without_it():
    assert unused_keys(Config.fromstring("mine = 1\nwork_dir = 'work'\n", '.py')) == []
    with pytest.raises(InputError, match='would have no effect: optimizer '):
        refuse_old_keys(Config.fromstring(OPTIMIZER, '.py'))
