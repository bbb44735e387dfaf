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
