"""Compare the attention weights of a checkpoint with those of a module."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..models.attention_modules import named_cbams
from ..models.built_model import unwrapped
from ..models.paper_places import also_in_frozen, in_frozen_part
from ..utils.config import PRETRAINED, kind_of
from ..utils.errors import InputError, first_few
from ..utils.installation import tool_command
from ..utils.options import cfg_options
from .files import read_checkpoint

# The names of CBAM and SE in the checkpoints of this and of other projects.
ATTENTION_KEY = re.compile(
    r'(^|\.)(cbam\w*|se|ca|sa|channel_gate|spatial_gate|ChannelGate|SpatialGate|'
    r'channel_attention|spatial_attention)\.'
)

BATCH_COUNTER = 'num_batches_tracked'  # old checkpoints do not have it; it has no effect


def state_of(checkpoint: Mapping, prefix: str = '') -> dict[str, Tensor]:
    """The weights below `prefix` in a checkpoint, without DataParallel's `module.`."""
    state = checkpoint.get('state_dict', checkpoint)
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def check_attention(
    state: Mapping[str, Tensor], module: nn.Module, source: str, whole: bool, place: str = 'model'
) -> None:
    """Check that the attention weights of a checkpoint fit a module.

    Args:
        state: the checkpoint's weights.
        module: the module that will load them.
        source: the checkpoint's name, for the message.
        whole: the checkpoint must have all attention weights of the module, as for a test or a
            resumed run.
        place: the module's key path in the config, for the message.

    Raises:
        InputError: the module has no place for some attention weights, the checkpoint has only a
            part of a CBAM, or with `whole` it lacks attention weights.
    """
    module_state = module.state_dict()
    lost = [
        key
        for key in state
        if ATTENTION_KEY.search(key)
        and (key not in module_state or module_state[key].shape != state[key].shape)
    ]
    if lost:
        module_keys = first_few([key for key in module_state if ATTENTION_KEY.search(key)])
        raise InputError(
            f'{source} has {len(lost)} attention weights that do not fit the model '
            f'({first_few(lost)}); the model has {module_keys or "no attention"}'
            f'{frozen_stage_hint(lost, module, place)}; use the config that they were trained '
            f'with, or convert them: {tool_command("convert-checkpoint", "CHECKPOINT", "OUT")}'
        )
    absent = [
        key
        for key in module_state
        if ATTENTION_KEY.search(key) and key not in state and not key.endswith(BATCH_COUNTER)
    ]
    for name, _ in named_cbams(module):
        missing = [key for key in absent if key.startswith(f'{name}.')]
        if missing and any(key.startswith(f'{name}.') for key in state):
            raise InputError(
                f'{source} has only a part of {name}: {first_few(missing)} is missing; set the '
                "options that it was trained with (start='paper' if gain is missing)"
            )
    if whole and absent:
        raise InputError(
            f'the model has {len(absent)} attention weights that {source} does not have '
            f'({first_few(absent)}); use the config that the checkpoint was trained with'
        )


def frozen_stage_hint(unknown: Sequence[str], module: nn.Module, place: str = 'model') -> str:
    """A remedy if some of the weights `unknown` to a module are attention of its frozen stages.

    Args:
        place: the module's key path in the config.
    """
    parts = dict(module.named_modules())
    for key in unknown:
        part, _, after = key.rpartition('inserted.')
        component = parts.get(part.removesuffix('.'))
        name = after.partition('.')[0].replace('/', '.')
        if component is None or name not in dict(component.named_modules()):
            continue
        if hasattr(component, 'inserted') and in_frozen_part(component, name):
            entry = f'{place}.{part}plugins.0'
            options = {f'{entry}.{key}': of for key, of in also_in_frozen(component).items()}
            return f'; for the attention of frozen stages add {cfg_options(options)}'
    return ''


def report_attention_of_loaded_weights() -> None:
    """Let MMEngine warn where the attention of a model and that of the weights which it loads
    differ, in the whole process.

    `init_detector`, `DetInferencer` and `load_from` take the weights that fit, and print the names
    of all others in one long line, where a lost attention is overlooked:
    https://github.com/open-mmlab/mmyolo/issues/1000.
    """
    module = importlib.import_module('mmengine.runner.checkpoint')
    load = module.load_state_dict
    if hasattr(load, '__wrapped__'):
        return

    @functools.wraps(load)
    def load_and_report(model: nn.Module, state: Mapping, *args: Any, **options: Any) -> Any:
        inner, incompatible = unwrapped(model), []
        handle = inner.register_load_state_dict_post_hook(lambda _, keys: incompatible.append(keys))
        try:
            result = load(model, state, *args, **options)
        finally:
            handle.remove()
        is_whole = hasattr(inner, 'data_preprocessor')
        for keys in incompatible:
            for line in attention_differences(keys.unexpected_keys, keys.missing_keys, is_whole):
                print_log(line, 'current', logging.WARNING)
        return result

    module.load_state_dict = load_and_report  # type: ignore[attr-defined]


def attention_differences(
    unexpected: Sequence[str], missing: Sequence[str], is_whole: bool
) -> Iterator[str]:
    """Yield a warning for attention that is only in the weights or only in the model.

    Args:
        unexpected: keys of weights that the model does not have.
        missing: keys of the model that the weights do not have.
        is_whole: the model is a whole detector or classifier. A part of one that starts from the
            weights of a classifier (`init_cfg`) usually has attention that these lack.
    """
    lost = [key for key in unexpected if ATTENTION_KEY.search(key)]
    if lost:
        yield (
            f'{len(lost)} attention weights of the checkpoint are not loaded ({first_few(lost)}): '
            'the model has no such attention, so its detections are not those that were trained; '
            'give the config of that training, or convert them: '
            f'{tool_command("convert-checkpoint", "CHECKPOINT", "OUT")}'
        )
    absent = [
        key for key in missing if ATTENTION_KEY.search(key) and not key.endswith(BATCH_COUNTER)
    ]
    if absent and is_whole:
        yield (
            f'the checkpoint lacks {len(absent)} attention weights of the model '
            f'({first_few(absent)}), which keep their initial values; to detect, give the config '
            'of that training'
        )


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, dict[str, Tensor]]]:
    """Yield name, module, source and weights of each part with a `Pretrained` `init_cfg`."""
    for name, module in model.named_modules():
        init_cfgs = getattr(module, 'init_cfg', None) or ()
        for init_cfg in [init_cfgs] if isinstance(init_cfgs, Mapping) else init_cfgs:
            if not isinstance(init_cfg, Mapping):
                raise InputError(
                    f'init_cfg={init_cfgs!r} of {name or "the model"} is not a dictionary or '
                    "a list of dictionaries; give dict(type='Pretrained', checkpoint=...), or None"
                )
            if kind_of(init_cfg) in PRETRAINED:
                source = init_cfg['checkpoint']
                checkpoint = read_checkpoint(
                    source, f'the pretrained weights {source} of {name}', 'download them again'
                )
                prefix = init_cfg.get('prefix') or ''
                prefix = prefix if prefix.endswith('.') or not prefix else f'{prefix}.'
                yield name, module, source, state_of(checkpoint, prefix)
