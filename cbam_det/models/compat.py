"""What of mmdet is mended or silenced, each with its reason."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


def import_mmdet() -> None:
    """Import mmdet's parts without onedl-mmdetection's lines about an optional library.

    Its SSD heads are mended: since mmdet 3.2 they train but fail to predict, for want of an
    attribute (mmdetection issue 11780, open).
    """
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module('mmdet.datasets')
        importlib.import_module('mmdet.models')
    head = importlib.import_module('mmdet.models.dense_heads').SSDHead
    if not hasattr(head.__init__, '__wrapped__'):
        head.__init__ = _with_loss(head.__init__)


def _with_loss(init: Callable) -> Callable:
    @functools.wraps(init)
    def mended(self: object, *args: object, **options: object) -> None:
        init(self, *args, **options)
        if not hasattr(self, 'loss_cls'):
            self.loss_cls = None

    return mended


def to_channels_last(model: nn.Module) -> nn.Module:
    """Bring a model's weights, and so its feature maps, into torch's channels_last format.

    mmcv's compiled operators (RoIAlign, deformable convolutions) read a map's memory as if it were
    contiguous, whatever its format is, and compute wrong numbers from others without a word. So
    what its modules get is made contiguous first, and their own weights stay so.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops.'):
            module.to(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
    return model


def _contiguous(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    def one(value: object) -> object:
        return value.contiguous() if isinstance(value, Tensor) else value

    return tuple(map(one, args)), {name: one(value) for name, value in options.items()}


def allow_compilations() -> None:
    """Let `torch.compile` make as many forms of the CBAMs' code as a detector needs.

    All CBAMs share their code, of which torch compiles 8 forms in a process and runs the rest as it
    is. A ResNet's four widths, in training, in inference and behind frozen stages, are 12.
    """
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, name, max(getattr(config, name), 64))
