"""At the end of a training: curves, AP by class, confusion matrix, detections, and a page of them.

They show the last validation, whose detections are kept as they pass by: nothing runs again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmdet.evaluation.metrics import CocoMetric
from mmengine.dist import master_only
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from ...evaluation.metrics import FastCocoMetric, class_of_metric
from ...utils.installation import tool_command
from ...utils.mmengine_private import has_epochs, is_training
from .terminal_hook import BRIEF, classes_of, is_terminal

if TYPE_CHECKING:
    from ...visualization.run_page import Validation

MOST_CLASSES = 100  # whose APs are evaluated and listed


@HOOKS.register_module()
class RunReportHook(Hook):
    """Writes report.html, curves.png, confusion_matrix.png and detections.png into the work_dir.

    `CheckedRunner` adds it to every run; `--cfg-options default_hooks.run_report=None` turns it
    off. The last validation reports the AP of each class too. A picture that cannot be drawn is a
    warning. A run that was complete already leaves its report as it is.

    Args:
        count: number of images in detections.png, evenly spaced over the validation, 1 or more.

    Raises:
        ValueError: `count` is below 1.
    """

    def __init__(self, count: int = 6) -> None:
        if not isinstance(count, int) or count < 1:
            raise ValueError(f'count={count!r} must be a whole number of 1 or more')
        self.count = count
        self._begin = 0
        self._validation: Validation | None = None

    def before_train(self, runner: Runner) -> None:
        """Note where the training begins."""
        self._begin = runner.iter

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget an earlier validation; let the last one report the AP of each class."""
        # Here, as it takes a second to import, and a run may have no validation.
        from ...visualization.run_page import Validation

        if not is_training(runner):
            return
        dataset = runner.val_dataloader.dataset
        epoch = f'epoch {runner.epoch}' if has_epochs(runner) else f'step {runner.iter:,}'
        self._validation = Validation(epoch, dataset, classes_of(dataset))
        if runner.iter >= runner.max_iters and len(classes_of(dataset)) <= MOST_CLASSES:
            for metric in getattr(runner.val_loop, 'evaluator', Evaluator([])).metrics:
                # With masks too, mmdet gives the APs of boxes and masks the same names.
                if _is_coco(metric) and metric.metrics == ['bbox']:
                    metric.classwise = True

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Keep the detections of a batch."""
        from ...visualization.detections import Detections
        from ...visualization.run_page import SCORE

        for sample in outputs or ():
            if self._validation is not None and _has_boxes(sample):
                detections = Detections.of(sample.pred_instances, SCORE)
                self._validation.detections[sample.img_path] = detections

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics, and move those of the classes to their end."""
        if self._validation is None or metrics is None:
            return
        self._validation.metrics = metrics
        # CheckpointHook's save_best='auto' takes the first one.
        for key in [key for key in metrics if class_of_metric(key)]:
            metrics[key] = metrics.pop(key)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the page, and show the AP of each class and the page's path."""
        work_dir = runner.work_dir
        if runner.iter == self._begin and Path(work_dir, 'report.html').is_file():
            return
        command = tool_command('visualize', 'report', work_dir)
        try:
            from ...visualization.run_page import write_run_page

            page, faults = write_run_page(
                work_dir,
                self._validation,
                self.count,
                f'Attention, Grad-CAM and costs, or a comparison of two runs: `{command}`',
            )
        except Exception as error:  # whatever it is, it must not end a training as failed
            runner.logger.warning(f'no report was written: {type(error).__name__}: {error}')
            return
        for fault in faults:
            runner.logger.warning(fault)
        if self._validation is not None and is_terminal():
            # A terminal may be unable to show the name of a class.
            with contextlib.suppress(UnicodeEncodeError):
                _print_classes(self._validation.metrics)
        content = 'curves' if self._validation is None else 'curves, detections and scores'
        runner.logger.info(f'{content}: {page}', extra=BRIEF)


def _has_boxes(sample: object) -> bool:
    """Whether a model's output has axis-aligned boxes with labels and scores, and its image."""
    if not isinstance(sample, BaseDataElement) or 'img_path' not in sample:
        return False
    instances = sample.get('pred_instances', {})
    has_all = {'bboxes', 'labels', 'scores'} <= {*instances.keys()}
    return has_all and tuple(instances.bboxes.shape[1:]) == (4,)


def _is_coco(metric: BaseMetric) -> bool:
    """Whether mmdet's CocoMetric computes a metric's numbers. Other metrics of that class, such as
    LVIS's, may compute those of each class in another way.
    """
    kinds = (CocoMetric, FastCocoMetric)
    return any(type(metric).compute_metrics is kind.compute_metrics for kind in kinds)


def _print_classes(metrics: Mapping[str, float]) -> None:
    aps = {name: ap for key, ap in metrics.items() if (name := class_of_metric(key))}
    if aps:
        console = Console(highlight=False)
        console.print('AP by class', style='bold')
        entries = [Text(f'{name} {ap:.3f}') for name, ap in aps.items()]
        console.print(Columns(entries, padding=(0, 3)))
