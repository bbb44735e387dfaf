"""`--log` adds MMEngine's backends, which get what the log file gets."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from cbam_det.engine import log_backends
from cbam_det.engine.log_backends import BACKENDS, add_log_backends
from cbam_det.utils.config import kind_of, read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIG
from .tiny_run import toy


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages seem to be installed."""
    monkeypatch.setattr(
        log_backends, 'find_spec', lambda name: SimpleNamespace(origin=f'{name}/__init__.py')
    )
    monkeypatch.setattr(log_backends, 'import_module', lambda name: None)
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://localhost:5000')


@pytest.mark.usefixtures('installed')
def test_backends_are_added_beside_the_local_one_and_named_after_the_run():
    cfg = read_config(str(CONFIG), {})
    cfg.work_dir = 'work_dirs/my run'
    add_log_backends(cfg, list(BACKENDS))
    local, *others = cfg.visualizer.vis_backends
    assert cfg.visualizer.type == 'DetLocalVisualizer' and local.type == 'LocalVisBackend'
    assert [kind_of(backend) for backend in others] == list(BACKENDS.values())
    _, wandb, mlflow = others
    assert wandb.init_kwargs.name == mlflow.run_name == 'my run'
    assert mlflow.tracking_uri == 'http://localhost:5000'


@pytest.mark.usefixtures('installed')
def test_backend_of_the_config_stays_and_a_config_without_a_visualizer_gets_one():
    own = dict(type='WandbVisBackend', init_kwargs=dict(project='cells'))
    cfg = Config(dict(work_dir='w', visualizer=dict(type='Visualizer', vis_backends=[own])))
    add_log_backends(cfg, ['wandb'])
    assert cfg.visualizer.vis_backends == [own]
    cfg = Config(dict(work_dir='w'))
    add_log_backends(cfg, ['tensorboard'])
    kinds = [backend.type for backend in cfg.visualizer.vis_backends]
    assert cfg.visualizer.type == 'Visualizer'
    assert kinds == ['LocalVisBackend', 'TensorboardVisBackend']


def test_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(log_backends, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r'--log wandb needs .*: pip install wandb$'):
        add_log_backends(Config(dict(work_dir='w')), ['wandb'])


def visualizer(name: str, work_dir: Path) -> Visualizer:
    """As `--log` makes it."""
    cfg = Config(dict(work_dir=str(work_dir)))
    add_log_backends(cfg, [name])
    return Visualizer(
        name=f'{name} {work_dir}', save_dir=str(work_dir), vis_backends=cfg.visualizer.vis_backends
    )


@pytest.mark.usefixtures('tiny_runs')
def test_tensorboard_has_the_losses_and_the_scores(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    toy(tmp_path, visualizer=visualizer('tensorboard', tmp_path)).train()
    events = accumulator.EventAccumulator(str(tmp_path / 'vis_data')).Reload()
    assert {'loss', 'lr', 'toy/score'} <= {*events.Tags()['scalars']}
    assert [event.value for event in events.Scalars('toy/score')] == [1, 2, 3]


@pytest.mark.usefixtures('tiny_runs')
def test_wandb_has_the_losses_the_scores_and_the_config_without_an_account(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    board = visualizer('wandb', tmp_path)
    board.add_config(read_config(str(CONFIG), {}))
    monkeypatch.setattr(board, 'close', lambda: None)  # a finished run forgets its numbers
    toy(tmp_path, visualizer=board).train()
    run = wandb.run
    assert run.name == tmp_path.name and run.summary['toy/score'] == 3
    assert {'loss', 'lr', 'toy/score'} <= {*run.summary.keys()}
    assert run.config['model']['backbone']['base_type'] == 'ResNet'
    run.finish()
    assert list(tmp_path.rglob('offline-run-*/*.wandb'))


@pytest.mark.usefixtures('tiny_runs')
def test_mlflow_has_the_losses_the_scores_and_the_config_in_the_work_dir(tmp_path):
    mlflow = pytest.importorskip('mlflow')
    pytest.importorskip('sqlalchemy')  # mlflow-skinny has no database
    work_dir = tmp_path / 'my run'
    board = visualizer('mlflow', work_dir)
    board.add_config(read_config(str(CONFIG), {}))  # hundreds of values, some of them long
    toy(work_dir, visualizer=board, cfg=dict(work_dir=str(work_dir))).train()
    (run,) = mlflow.search_runs(output_format='list', experiment_names=['cbam_det'])
    assert run.info.run_name == 'my run' and (work_dir / 'mlflow.db').is_file()
    assert {'loss', 'lr', 'toy/score'} <= {*run.data.metrics} and run.data.metrics['toy/score'] == 3
    assert run.data.params['model.backbone.base_type'] == 'ResNet'
    assert list((work_dir / 'mlflow').rglob('config.py'))


def test_a_folder_with_the_name_of_a_package_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / 'wandb').mkdir()  # as W&B's runs leave it
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    with pytest.raises(InputError, match='needs the package wandb, which is not installed'):
        add_log_backends(Config(dict(work_dir='w')), ['wandb'])


def test_package_whose_own_requirement_is_missing_is_named_with_it(tmp_path, monkeypatch):
    package = tmp_path / 'wandb'
    package.mkdir()
    (package / '__init__.py').write_text('import missing_requirement\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    with pytest.raises(InputError, match=r"named 'missing_requirement'; .*pip install wandb$"):
        add_log_backends(Config(dict(work_dir='w')), ['wandb'])
