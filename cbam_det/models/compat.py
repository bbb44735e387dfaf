"""Patches of mmdet, mmcv and torch. Each function documents what it changes, why and for how long.

`WithPlugins`, `build_model`, `CheckedRunner` and `FastCocoMetric` call the patches that they need.
Importing this file changes nothing.
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

from torch import Tensor

from .layers.torch_private import raise_recompile_limit


def import_mmdet() -> None:
    """Import mmdet's modules without printing onedl-mmdetection's notes on an optional library."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
        importlib.import_module('mmdet.datasets')
        importlib.import_module('mmdet.models')


def fix_ssd_heads() -> None:
    """Give mmdet's `SSDHead` the attribute `loss_cls`, None, for the whole process.

    Since mmdet 3.2 the prediction of every dense head reads it. Only SSD's head, which has no
    separate classification loss, does not define it: SSD trains but cannot predict. See
    https://github.com/open-mmlab/mmdetection/issues/11780; the fix in pull request 11524 is not
    merged.
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
    """Keep the gradients in the predictions of mmdet's dense heads inside this context.

    Grad-CAM needs the gradient of a detection's score. The heads' `predict_by_feat` selects the
    maps of each image by `select_single_mlvl`, which detaches them by default. The function is
    replaced in every module that has imported it by name. mmdet's own Grad-CAM,
    https://github.com/open-mmlab/mmdetection/pull/7987, was not merged.
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
    """Let mmdet's CocoMetric use `evaluator` in place of pycocotools' COCOeval inside this context.

    CocoMetric reads the class from its module. An option for it,
    https://github.com/open-mmlab/mmdetection/pull/11776, was not merged.
    """
    module = importlib.import_module('mmdet.evaluation.metrics.coco_metric')
    with _replaced(module, 'COCOeval', evaluator):
        yield


def fix_coco_metric(evaluator: type, parallel: type, annotations: type) -> None:
    """Let mmdet's CocoMetric use these classes, for the whole process.

    COCOeval sorts the category ids and CocoMetric does not. If the ids do not ascend, a class is
    reported with the AP of another: https://github.com/open-mmlab/mmdetection/issues/11704.
    CocoMetric reads the classes from its module and has no option for them (see `coco_evaluator`).

    Args:
        evaluator: replaces pycocotools' COCOeval.
        parallel: replaces mmdet's COCOevalMP.
        annotations: replaces mmdet's COCO.
    """
    module = importlib.import_module('mmdet.evaluation.metrics.coco_metric')
    replacements = dict(COCOeval=evaluator, COCOevalMP=parallel, COCO=annotations)
    for name, value in replacements.items():
        if hasattr(module, name):  # COCOevalMP came with mmdet 3.1
            setattr(module, name, value)


def fix_voc_metric() -> None:
    """Let mmdet's VOCMetric print the class names of the data set, for the whole process.

    For a `VOCDataset` in a folder VOC2007 or VOC2012 it always prints VOC's names (aeroplane,
    bicycle), even if the data set has other classes:
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


def allow_compilations() -> None:
    """Let `torch.compile` compile CBAM's code for as many kinds of input as a detector has.

    torch compiles a function for 8 kinds of input and runs it uncompiled for further kinds. All
    CBAMs share one function, and a ResNet has 12 kinds: four widths, each in training, in inference
    and after frozen stages.
    """
    raise_recompile_limit(64)
