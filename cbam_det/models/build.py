"""The detector of a config, built to check options and checkpoints on."""

from __future__ import annotations

import copy
import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import distributed

from ..utils.config import detector, enter_scope, key_hint, kind_of, near_hint, walk
from ..utils.errors import InputError
from . import layers
from .compat import fix_ssd_heads
from .plugins import CBAM

if TYPE_CHECKING:
    from mmdet.models import BaseDetector


def build_model(cfg: Config) -> BaseDetector:
    """The detector of `cfg`, not initialised, to check options and checkpoints on.

    Raises:
        InputError: an option of our modules is wrong, or no module has an option of that name.
            Other errors of other modules pass as they are.
    """
    fix_ssd_heads()
    enter_scope(cfg)
    for path, node in walk(cfg.model, 'model'):
        plugins = node.get('plugins')
        if plugins is not None and not (
            isinstance(plugins, (list, tuple))
            and all(isinstance(plugin, dict) for plugin in plugins)
            and all(isinstance(plugin.get('cfg'), dict) for plugin in plugins)
            and all(kind_of(plugin['cfg']) for plugin in plugins)
        ):
            raise InputError(
                f'{path}.plugins={plugins} is no list of plugins with a cfg and its type. To '
                'override, there has to be attention at that place: take the _cbam twin; SSD and '
                'StairNet have theirs in model.neck.plugins'
            )
    try:
        model = copy.deepcopy(detector(cfg))
        if cfg.get('data_preprocessor'):  # where mmpretrain's configs have it, for the runner
            model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        with _process_group(cfg):
            return MODELS.build(model)
    except (KeyError, TypeError, ValueError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        raised_by_us = Path(__file__).parents[1] in Path(raised_in).parents
        expected_messages = ('unexpected keyword argument', 'WithPlugins() missing', ' registry')
        if raised_by_us or any(text in str(error) for text in expected_messages):
            message = str(error.args[0] if isinstance(error, KeyError) else error)
            message = message.replace(
                'Cannot find None in registry', 'a type is misspelt: Cannot find it in registry'
            )
            unexpected = re.search(r"(\S+) got an unexpected keyword argument '(\w+)'", message)
            if unexpected and 'CBAM' in unexpected[1]:
                options = [
                    option
                    for kind in (CBAM, layers.CBAM)
                    for option in inspect.signature(kind).parameters
                ]
                message += near_hint(unexpected[2], options)
            elif unexpected:
                message += key_hint(cfg, unexpected[2], unexpected[1].removesuffix('.__init__()'))
            raise InputError(f'the model of this config cannot be built: {message}') from None
        raise


@contextmanager
def _process_group(cfg: Config) -> Iterator[None]:
    """One of this process alone where a norm of the model asks for one while it is built."""
    types = [kind_of(node) for _, node in walk(cfg.model)]
    if distributed.is_initialized() or 'MMSyncBN' not in types:
        yield
        return
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
