"""`runner_type = 'CheckedRunner'`: what our tools do, in mmdet's own and in a script."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset

from cbam_det import CBAM, AttentionAuditHook, CheckedRunner
from cbam_det.engine import preflight
from cbam_det.engine.hooks import (
    AtomicCheckpointHook,
    ExactResumeHook,
    FiniteLossesHook,
    StopSignalsHook,
)
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options

from ..conftest import CONFIG, QUICK

OTHERS_OF_OURS = (ExactResumeHook, FiniteLossesHook, StopSignalsHook)
ANNOTATIONS = 'annotations/instances_train2017.json'


def config(digits: Path, work: Path, *options: str) -> Config:
    """The small set's config with the line that chooses the runner, as a user's script has it."""
    cfg = read_config(str(CONFIG), parse_options([*QUICK, 'train_cfg.max_epochs=1', *options]))
    cfg.merge_from_dict(
        dict(runner_type='CheckedRunner', work_dir=str(work), preflight=dict(data_root=str(digits)))
    )
    return cfg


def mmdet_tool(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    path = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    return subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_mmdet_s_own_tools_have_the_checks_and_the_hooks_by_one_line(digits, trained, tmp_path):
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        "runner_type = 'CheckedRunner'\n"
        f'preflight = dict(data_root={str(digits)!r}, check_images=True)\n'
    )
    options = ('--work-dir', 'work', '--cfg-options', *QUICK, 'train_cfg.max_epochs=1')
    done = mmdet_tool('train', 'mine.py', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ours = torch.load(trained / 'work/epoch_1.pth', weights_only=False)
    theirs = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=False)
    assert all(torch.equal(theirs['state_dict'][key], v) for key, v in ours['state_dict'].items())
    assert 'random_states' in theirs['exact_resume']
    assert 'attention of this run:' in done.stdout
    again = mmdet_tool('train', 'mine.py', *options, cwd=tmp_path)
    assert again.returncode == 2 and 'Traceback' not in again.stderr
    (line,) = (line for line in again.stderr.splitlines() if line.startswith('error: '))
    assert 'of an earlier run, which this one would overwrite' in line
    done = mmdet_tool('test', 'mine.py', 'work/epoch_1.pth', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.glob('work/*/metrics.json')
    record = json.loads(file.read_text())
    assert record['command'].startswith('tools/test.py mine.py work/epoch_1.pth ')
    assert {'coco/bbox_mAP', 'coco/bbox_AR@1000', 'coco/zero_precision'} <= set(record['metrics'])


def test_registered_runner_is_built_without_a_change_of_its_config(digits, tmp_path):
    cfg = config(digits, tmp_path / 'work')
    before = cfg.pretty_text
    runner = RUNNERS.build(cfg)
    assert type(runner) is CheckedRunner and cfg.pretty_text == before
    assert runner.cfg.train_dataloader.dataset.data_root == f'{digits}/'
    assert any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks)


@pytest.mark.parametrize(('task', 'options'), [('train', ()), ('test', ('load_from=no.pth',))])
def test_wrong_input_is_refused_before_anything_is_written_where_the_task_is_told(
    task, options, digits, tmp_path
):
    options = options or ('model.roi_head.bbox_head.num_classes=3',)
    cfg = config(digits, tmp_path / 'work', *options)
    words = 'num_classes=3, but' if task == 'train' else r'the checkpoint no\.pth does not exist'
    with pytest.raises(InputError, match=words):
        CheckedRunner.from_cfg(cfg, task)
    assert not (tmp_path / 'work').exists()
    runner = CheckedRunner.from_cfg(cfg)
    with pytest.raises(InputError, match=words):
        getattr(runner, task)()


def test_task_that_is_none_of_a_runner_s_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match="task='val' is unknown; give 'train', 'test' or None"):
        CheckedRunner.from_cfg(config(digits, tmp_path / 'work'), 'val')


def test_config_without_a_work_dir_is_refused(digits, tmp_path):
    cfg = config(digits, tmp_path / 'work')
    cfg.pop('work_dir')
    with pytest.raises(InputError, match=r'the config has no work_dir.*--work-dir'):
        CheckedRunner.from_cfg(cfg)


def test_run_is_checked_once(digits, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(preflight, 'check_run', lambda cfg, task: asked.append(task))
    monkeypatch.setattr(Runner, 'train', lambda self: None)
    CheckedRunner.from_cfg(config(digits, tmp_path / 'told'), 'train').train()
    assert asked == ['train']
    CheckedRunner.from_cfg(config(digits, tmp_path / 'not')).train()
    assert asked == ['train', 'train']


def test_data_of_a_test_alone_are_enough_for_a_test(digits, tmp_path, monkeypatch):
    """It learns from the call of `test()` what it is for."""
    monkeypatch.setattr(Runner, 'test', lambda self: {})
    cfg = config(digits, tmp_path / 'work')
    cfg.train_dataloader.dataset.ann_file = 'annotations/absent.json'
    assert CheckedRunner.from_cfg(cfg).test() == {}
    with pytest.raises(InputError, match=r'no annotation file .*absent\.json'):
        CheckedRunner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'custom_hooks': [dict(type='AttentionAudit')]}, 'AttentionAuditHook'),
        ({'default_hooks.exact_resume': dict(type='ExactResume')}, 'ExactResumeHook'),
        ({'custom_hooks': [dict(type='NumClassCheckHook', near=0)]}, 'near is not an option'),
        ({'custom_hooks': [dict(type='LoggerHook', intervall=2)]}, "did you mean 'interval'"),
        (
            {'default_hooks.stop_signals': False},
            'stop_signals=False is a boolean; give .*None',
        ),
        ({'preflight': True}, 'preflight=True is a boolean; give a dictionary'),
        ({'preflight': ['data_root']}, r"preflight=\['data_root'\] is a list; give a dict"),
        ({'preflight.data_root': 5}, 'preflight.data_root=5 is a whole number; give a string'),
        (
            {'preflight.check_images': 'yes'},
            "preflight.check_images='yes' is a string; give True or",
        ),
    ],
)
def test_wrong_hook_or_setting_of_the_runner_is_refused_by_its_key(
    options, words, digits, tmp_path
):
    cfg = config(digits, tmp_path / 'work')
    cfg.merge_from_dict(options)
    with pytest.raises(InputError, match=words):
        CheckedRunner.from_cfg(cfg)
    assert not (tmp_path / 'work').exists()


class Maps(Dataset):
    """Four maps of one number."""

    metainfo = dict(classes=('one',))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.full((4, 2, 2), float(index)), data_samples=BaseDataElement())


class Small(BaseModel):
    """A CBAM, or a convolution in its place."""

    def __init__(self, attended: bool) -> None:
        super().__init__()
        self.layer = CBAM(4, 2) if attended else nn.Conv2d(4, 4, 1)

    def forward(self, inputs: list[Tensor], data_samples: list, mode: str = 'tensor') -> object:
        y = self.layer(torch.stack(list(inputs)))
        return dict(loss=y.square().mean()) if mode == 'loss' else [dict()] * len(y)


class Count(BaseMetric):
    def process(self, data_batch: object, data_samples: object) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        return dict(images=len(results))


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., CheckedRunner]:
    """A runner of parts: `small(attended, default_hooks=..., custom_hooks=...)`."""

    def build(attended: bool = True, **hooks: object) -> CheckedRunner:
        loader = dict(dataset=Maps(), batch_size=2, num_workers=0)
        loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
        return CheckedRunner(
            model=Small(attended),
            work_dir=str(tmp_path),
            train_dataloader=loader,
            test_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            test_cfg=dict(),
            test_evaluator=[Count()],
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            experiment_name=f'{tmp_path.name}_{len(list(tmp_path.iterdir()))}',
            **hooks,
        )

    return build


def audits(runner: CheckedRunner) -> list[AttentionAuditHook]:
    return [hook for hook in runner.hooks if isinstance(hook, AttentionAuditHook)]


def test_attention_is_audited_once_where_there_is_any_unless_a_config_leaves_it_out(small):
    own = dict(type='AttentionAuditHook', saturation_at=7)
    assert [hook.saturation_at for hook in audits(small())] == [500]
    assert audits(small(attended=False)) == []
    assert audits(small(default_hooks=dict(attention_audit=None))) == []
    assert audits(small(attended=False, default_hooks=dict(attention_audit=None))) == []
    for hooks in (
        dict(custom_hooks=[own]),
        dict(default_hooks=dict(mine=own)),
        dict(default_hooks=dict(attention_audit=own)),
        dict(default_hooks=dict(attention_audit=dict(saturation_at=7))),
    ):
        assert [hook.saturation_at for hook in audits(small(**hooks))] == [7], hooks


@pytest.mark.parametrize('hook', [AttentionAuditHook, *OTHERS_OF_OURS])
def test_own_hook_that_a_config_gives_elsewhere_is_there_once(hook, small):
    name = hook.__name__
    for hooks in (
        dict(),
        dict(custom_hooks=[dict(type=name)]),
        dict(custom_hooks=[dict(type=hook)]),
        dict(custom_hooks=[hook()]),
        dict(custom_hooks=[type(f'My{name}', (hook,), {})()]),
        dict(default_hooks=dict(mine=dict(type=name))),
    ):
        assert sum(isinstance(own, hook) for own in small(**hooks).hooks) == 1, hooks


def test_own_hook_that_a_config_gives_twice_is_refused_by_its_places(small):
    own = dict(type='ExactResumeHook')
    words = 'custom_hooks.0 and custom_hooks.1 are each an ExactResumeHook'
    with pytest.raises(InputError, match=words):
        small(custom_hooks=[own, own])
    with pytest.raises(InputError, match=r'custom_hooks.0 and default_hooks.exact_resume are each'):
        small(custom_hooks=[own], default_hooks=dict(exact_resume=dict(priority='LOW')))


def test_runner_of_parts_trains_and_tests_without_a_config_to_check(small, tmp_path):
    assert isinstance(small().train(), Small)
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert small().test() == dict(images=4)


def test_run_of_parts_goes_on_from_its_last_whole_checkpoint(small, tmp_path):
    small().train()
    (tmp_path / 'epoch_1.pth').rename(tmp_path / 'epoch_0.pth')
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK cut off')
    runner = small()
    runner._resume = True
    runner.train()
    assert (runner._load_from, runner.epoch) == (str(tmp_path / 'epoch_0.pth'), 1)
