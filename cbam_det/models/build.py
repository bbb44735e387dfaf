"""Build the detector of a config, to check the config and checkpoints against it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import distributed, nn

from ..utils.build_errors import build_errors
from ..utils.config import detector, enter_scope, kind_of, walk
from ..utils.errors import InputError
from .compat import fix_ssd_heads

if TYPE_CHECKING:
    from mmdet.models import BaseDetector


def build_model(cfg: Config) -> BaseDetector:
    """Build the detector of `cfg`; its weights are not initialised.

    Raises:
        InputError: a module rejects its options in the config; see `build_errors`.
    """
    fix_ssd_heads()
    enter_scope(cfg)
    model = copy.deepcopy(detector(cfg))
    for path, node in walk(cfg.model, 'model'):
        plugins = node.get('plugins')
        if plugins is not None and not (
            isinstance(plugins, (list, tuple)) and all(_is_plugin(plugin) for plugin in plugins)
        ):
            raise InputError(
                f'{path}.plugins={plugins} is not a list of plugins, each with a cfg that has a '
                "type. --cfg-options can change only plugins that the config has: use the config's "
                '_cbam version; in SSD and StairNet they are in model.neck.plugins'
            )
    if cfg.get('data_preprocessor'):  # mmpretrain's configs have it outside of model
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with _process_group(cfg), build_errors(cfg, 'model', 'data_preprocessor'):
        return MODELS.build(model)


def check_training_mode(cfg: Config, model: nn.Module) -> None:
    """Set the built detector of `cfg` to training, in which most backbones freeze their stages.

    Raises:
        InputError: a part cannot be trained with its options, see `build_errors`.
    """
    with build_errors(cfg, 'model'):
        model.train()


def _is_plugin(node: object) -> bool:
    cfg = node.get('cfg') if isinstance(node, dict) else None
    return isinstance(cfg, dict) and bool(kind_of(cfg))


def image_channels(cfg: Config) -> int:
    """How many channels the input images have: the backbone's `in_channels`, or 3."""
    return (detector(cfg).get('backbone') or {}).get('in_channels') or 3


def data_preprocessor(cfg: Config) -> dict:
    """The options of the data preprocessor: the detector's, or those beside it as in mmpretrain."""
    return detector(cfg).get('data_preprocessor') or cfg.get('data_preprocessor') or {}


@contextmanager
def _process_group(cfg: Config) -> Iterator[None]:
    """A process group of this process alone, for MMSyncBN, which needs one to be built."""
    types = [kind_of(node) for _, node in walk(cfg.model)]
    if distributed.is_initialized() or 'MMSyncBN' not in types:
        yield
        return
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
