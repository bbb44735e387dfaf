"""`--log`: MMEngine's backends for TensorBoard, Weights & Biases and MLflow, beside its own files.

The backends log what MMEngine logs: losses, learning rates, scores and the config. LocalVisBackend
stays, since our curves and reports read its files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from ..utils.config import kind_of
from ..utils.errors import InputError

LOCAL = dict(type='LocalVisBackend')
# Names of packages -> MMEngine's backends.
BACKENDS = dict(
    tensorboard='TensorboardVisBackend', wandb='WandbVisBackend', mlflow='MLflowVisBackend'
)


def add_log_backends(cfg: Config, names: Sequence[str]) -> None:
    """Add the backends of these packages to a config that has a work_dir.

    A backend that the config has already stays as it is. The run of a new one is named after the
    work_dir. MLflow writes to mlflow.db in the work_dir, or to the server in the environment
    variable MLFLOW_TRACKING_URI. (MMEngine's default, a folder of files, is refused by MLflow 3.)

    Args:
        cfg: the config, which is changed.
        names: keys of `BACKENDS`.

    Raises:
        InputError: a package is not installed or cannot be imported.
    """
    if not names:
        return
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [LOCAL])
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb's own logs
            raise InputError(
                f'--log {name} needs the package {name}, which is not installed: pip install {name}'
            )
        try:  # MMEngine would say only that it is not installed
            import_module(name)
        except ImportError as error:
            raise InputError(
                f'--log {name}: the package {name} cannot be imported: {error}; '
                f'this installs what it needs: pip install {name}'
            ) from error
        kind = BACKENDS[name]
        if kind not in map(kind_of, backends):
            backends.append({'type': kind, **_options(name, Path(cfg.work_dir).resolve())})
    cfg.visualizer = {**visualizer, 'vis_backends': backends}


def _options(name: str, work_dir: Path) -> dict[str, object]:
    if name == 'wandb':
        return dict(init_kwargs=dict(name=work_dir.name))
    if name == 'mlflow':
        options: dict[str, object] = dict(exp_name='cbam_det', run_name=work_dir.name)
        server = os.environ.get('MLFLOW_TRACKING_URI')
        if server:
            return dict(options, tracking_uri=server)
        database = f'sqlite:///{work_dir / "mlflow.db"}'
        return dict(options, tracking_uri=database, artifact_location=f'{work_dir}/mlflow')
    return {}
