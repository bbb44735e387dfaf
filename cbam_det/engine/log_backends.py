"""`--log`: MMEngine's backends for TensorBoard, Weights & Biases and MLflow, beside its own files.

The backends log what MMEngine logs: losses, learning rates, scores and the config. LocalVisBackend
stays, since our curves and reports read its files.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
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
    work_dir. MLflow writes into the work_dir, or to the server in the environment variable
    MLFLOW_TRACKING_URI.

    Args:
        cfg: the config, which is changed.
        names: keys of `BACKENDS`.

    Raises:
        InputError: a package is not installed.
    """
    if not names:
        return
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [LOCAL])
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f'--log {name} needs the package {name}, which is not installed: pip install {name}'
            )
        kind = BACKENDS[name]
        if kind not in map(kind_of, backends):
            backends.append({'type': kind, **_options(name, Path(cfg.work_dir).name)})
    cfg.visualizer = {**visualizer, 'vis_backends': backends}


def _options(name: str, run_name: str) -> dict[str, object]:
    if name == 'wandb':
        return dict(init_kwargs=dict(name=run_name))
    if name == 'mlflow':
        return dict(run_name=run_name, tracking_uri=os.environ.get('MLFLOW_TRACKING_URI'))
    return {}
