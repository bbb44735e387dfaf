"""What of mmdet, mmcv and torch is changed: each function says what, why and for how long.

`WithPlugins`, `build_model`, `CheckedRunner` and `FastCocoMetric` call those that they need;
importing this file changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def import_mmdet() -> None:
    """Import mmdet's parts, without onedl-mmdetection's lines about an optional library."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
        importlib.import_module('mmdet.datasets')
        importlib.import_module('mmdet.models')


def fix_ssd_heads() -> None:
    """Give mmdet's `SSDHead` the attribute `loss_cls`, None, for the whole process.

    Since mmdet 3.2 each dense head's prediction asks for it, and SSD's, which has no classification
    loss of its own, is the one without: it trains but fails to predict. See
    https://github.com/open-mmlab/mmdetection/issues/11780 and the fix that waits in its pull
    request 11524.
    """
    head = importlib.import_module('mmdet.models.dense_heads').SSDHead
    if not hasattr(head.__init__, '__wrapped__'):
        head.__init__ = _with_loss(head.__init__)


def _with_loss(init: Callable) -> Callable:
    @functools.wraps(init)
    def init_with_loss(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        if not hasattr(self, 'loss_cls'):
            self.loss_cls = None

    return init_with_loss


@contextmanager
def scores_with_gradients() -> Iterator[None]:
    """Let mmdet's dense heads predict with the gradients of their maps, while the context lasts.

    Their `predict_by_feat` takes each image's maps by `select_single_mlvl`, which detaches them
    unless it is told not to, and nothing tells it. Grad-CAM needs the gradient of a detection's
    score. The function is replaced in each module that has imported it by its name. mmdet's own
    Grad-CAM, https://github.com/open-mmlab/mmdetection/pull/7987, was not merged.
    """
    name = 'select_single_mlvl'
    original = getattr(importlib.import_module('mmdet.models.utils'), name)

    def select(levels: Sequence[Tensor], number: int, detach: bool = True) -> list[Tensor]:
        return [level[number] for level in levels]

    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if isinstance(module, ModuleType) and vars(module).get(name) is original:
                stack.enter_context(_replaced(module, name, select))
        yield


@contextmanager
def coco_evaluator(evaluator: type) -> Iterator[None]:
    """Let mmdet's CocoMetric count by another class than pycocotools' COCOeval, while the context
    lasts.

    CocoMetric takes the class from its module, and gives no other way in: the option for one,
    https://github.com/open-mmlab/mmdetection/pull/11776, was not merged.
    """
    module = importlib.import_module('mmdet.evaluation.metrics.coco_metric')
    with _replaced(module, 'COCOeval', evaluator):
        yield


def fix_coco_metric(evaluator: type, parallel: type, annotations: type) -> None:
    """Let mmdet's CocoMetric evaluate and read by these classes, for the whole process.

    It takes them from its module and gives no other way in (see `coco_evaluator`). COCOeval
    sorts the category ids and CocoMetric does not, so a class gets the AP of another where ids do
    not ascend: https://github.com/open-mmlab/mmdetection/issues/11704.

    Args:
        evaluator: for pycocotools' COCOeval.
        parallel: for mmdet's COCOevalMP.
        annotations: for mmdet's COCO.
    """
    module = importlib.import_module('mmdet.evaluation.metrics.coco_metric')
    replacements = dict(COCOeval=evaluator, COCOevalMP=parallel, COCO=annotations)
    for name, value in replacements.items():
        if hasattr(module, name):  # COCOevalMP came with mmdet 3.1
            setattr(module, name, value)


def fix_voc_metric() -> None:
    """Let mmdet's VOCMetric call classes by the data set's names, for the whole process.

    A `VOCDataset` in a folder VOC2007 or VOC2012 makes it print VOC's names (aeroplane, bicycle)
    beside the APs of whatever classes the data set has:
    https://github.com/open-mmlab/mmdetection/issues/9878.
    """
    metric = importlib.import_module('mmdet.evaluation.metrics').VOCMetric
    if not hasattr(metric.compute_metrics, '__wrapped__'):
        metric.compute_metrics = _with_own_names(metric.compute_metrics)


def _with_own_names(compute: Callable) -> Callable:
    @functools.wraps(compute)
    def compute_with_own_names(self: Any, results: list) -> dict:
        voc_names = importlib.import_module('mmdet.datasets').VOCDataset.METAINFO['classes']
        dataset_meta = self.dataset_meta
        if tuple(dataset_meta['classes']) != tuple(voc_names):
            self.dataset_meta = {**dataset_meta, 'dataset_type': None}
        try:
            return compute(self, results)
        finally:
            self.dataset_meta = dataset_meta

    return compute_with_own_names


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def to_channels_last(model: nn.Module) -> nn.Module:
    """Bring a model's weights, and so its feature maps, into torch's channels_last format.

    mmcv's compiled operators (RoIAlign, deformable convolutions) read a map's memory as if it were
    contiguous, whatever its format is, and compute wrong numbers from others without a word. So
    what its modules get is made contiguous first, and their own weights stay so. See
    https://github.com/open-mmlab/mmcv/issues/2203.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops.'):
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
    return model


def _contiguous(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    def contiguous(value: Any) -> Any:
        return value.contiguous() if isinstance(value, Tensor) else value

    return tuple(map(contiguous, args)), {
        name: contiguous(value) for name, value in options.items()
    }


def allow_compilations() -> None:
    """Let `torch.compile` make as many forms of the CBAMs' code as a detector needs.

    torch compiles a function for 8 kinds of input, and runs it uncompiled for any further kind. All
    CBAMs share one function, and a ResNet needs 12 kinds: its four widths, each in training, in
    inference and behind frozen stages.
    """
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, name, max(getattr(config, name), 64))
