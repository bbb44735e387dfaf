"""What `--resume` starts from, and that no later command resumes by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.engine import launch, preflight
from cbam_det.engine.config_dump import dump_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.runner_types import check_runner_keys

from ..conftest import CONFIG, in_process
from .tiny_run import toy

pytestmark = pytest.mark.usefixtures('tiny_runs')


@pytest.fixture
def cfg_of_train(monkeypatch: pytest.MonkeyPatch):
    """`cfg_of_train(*options)`: the config that `tools/train.py` gives to its runner, or None."""

    def call(*options: str) -> Config | None:
        built = []
        monkeypatch.setattr(launch, 'build_runner', lambda cfg, task: built.append(cfg) or Trained)
        in_process('train')(CONFIG, *options)
        return built[0] if built else None

    return call


class Trained:
    train = staticmethod(lambda: None)


def test_resume_keeps_the_weights_that_the_config_starts_from(cfg_of_train):
    load_from = ('--cfg-options', 'load_from=coco.pth')
    cfg = cfg_of_train('--resume', *load_from)
    assert (cfg.resume, cfg.load_from) == ('auto', 'coco.pth')
    check_runner_keys(cfg)
    assert not cfg_of_train(*load_from).get('resume')


def test_resume_of_a_named_checkpoint_continues_it(cfg_of_train, tmp_path):
    (tmp_path / 'epoch_1.pth').touch()
    cfg = cfg_of_train('--resume', str(tmp_path / 'epoch_1.pth'))
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'epoch_1.pth'))


def test_resume_with_an_empty_value_is_refused(cfg_of_train, capsys):
    assert cfg_of_train('--resume', '') is None
    assert "error: --resume '' names no checkpoint" in capsys.readouterr().err


class Start(Hook):
    """Notes from what a training starts."""

    def before_train(self, runner: Runner) -> None:
        self.weight = runner.model.layer.weight.detach().clone()
        self.place = runner.epoch, runner._load_from


def test_run_without_a_checkpoint_starts_from_load_from_and_then_continues_its_own(tmp_path):
    toy(tmp_path / 'first', max_epochs=1).train()
    assert list((tmp_path / 'first').glob('*.py'))  # the written config
    weights = tmp_path / 'weights.pth'
    state = torch.load(tmp_path / 'first/epoch_1.pth', weights_only=False)['state_dict']
    torch.save(dict(state_dict={key: value + 1 for key, value in state.items()}), weights)
    options = dict(resume='auto', load_from=str(weights))
    start = Start()
    toy(tmp_path / 'second', start, max_epochs=1, **options).train()
    assert torch.equal(start.weight, state['layer.weight'] + 1)
    assert start.place == (0, str(weights))
    toy(tmp_path / 'second', start, **options).train()
    assert start.place == (1, str(tmp_path / 'second/epoch_1.pth'))


def test_weights_of_a_resumed_run_are_checked_where_they_are_loaded(digits, tmp_path):
    cfg = Config.fromfile(CONFIG)
    set_data_root(cfg, str(digits))
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), load_from='no.pth', resume='auto'))
    with pytest.raises(InputError, match=r'no\.pth \(load_from\) does not exist'):
        preflight.check_run(cfg, 'train')


@pytest.mark.parametrize('has_checkpoint', [False, True])
def test_runner_of_another_class_gets_what_mmengine_knows(has_checkpoint, tmp_path, monkeypatch):
    if has_checkpoint:
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    monkeypatch.setattr(launch.RUNNERS, 'build', lambda cfg: cfg)
    options = dict(runner_type='Runner', work_dir=str(tmp_path), resume='auto', load_from='w.pth')
    cfg = launch.build_runner(Config(options), 'train')
    expected = (True, None) if has_checkpoint else (False, 'w.pth')
    assert (cfg.resume, cfg.load_from) == expected


class Written:
    """The parts of a runner that `dump_config` reads."""

    def __init__(self, file: Path, work: Path, **options: object) -> None:
        self.cfg = Config.fromfile(file)
        self.cfg.merge_from_dict(options)
        self.work_dir, self.timestamp = str(work), 'now'
        work.mkdir(exist_ok=True)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A config with a base and a comment."""
    (tmp_path / 'base.py').write_text('a = 1\n')
    file = tmp_path / 'own.py'
    file.write_text("_base_ = 'base.py'  # mine\n")
    return file


def test_config_in_its_own_work_dir_is_kept(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for work in (tmp_path, Path('.')):
        dump_config(Written(own, work))
        assert own.read_text() == "_base_ = 'base.py'  # mine\n"
    assert {path.name for path in tmp_path.iterdir()} == {'base.py', 'own.py'}


@pytest.mark.parametrize(
    ('resume', 'load_from'), [(True, None), ('auto', 'w.pth'), (False, 'w.pth')]
)
def test_written_config_does_not_resume(resume, load_from, own, tmp_path):
    runner = Written(own, tmp_path / 'work', resume=resume, load_from='w.pth')
    dump_config(runner)
    (file,) = (tmp_path / 'work').iterdir()
    written = Config.fromfile(file)
    assert (file.name, written.a, written.resume) == ('own.py', 1, False)
    assert written.load_from == load_from and runner.cfg.resume == resume


def test_test_loads_the_weights_of_a_config_that_resumes(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(Runner, 'test', lambda self: self.load_or_resume() or {})
    monkeypatch.setattr(Runner, 'resume', lambda self, path: called.append(('resume', path)))
    monkeypatch.setattr(Runner, 'load_checkpoint', lambda self, path: called.append(path))
    toy(tmp_path, resume=True, load_from='weights.pth').test()
    assert called == ['weights.pth']
