"""A test without any detection is an error: its metrics are zero, or none, whatever the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...utils.errors import InputError


class DetectionCountHook(Hook):
    """Counts the detections of a test; each test by a `CheckedRunner` has it.

    MMEngine ends such a test in success, with a line in the log that the results are empty.
    """

    def __init__(self) -> None:
        self.images = self.detections = 0

    def before_test(self, runner: Runner) -> None:
        """Begin to count."""
        self.images = self.detections = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Count what a batch of a detector found."""
        for sample in outputs or ():
            if 'pred_instances' in sample:
                self.images += 1
                self.detections += len(sample.pred_instances)

    def check(self) -> None:
        """Look at the count of all processes, in each of them.

        Raises:
            InputError: there were images for a detector, and it found nothing in any.
        """
        counts = torch.tensor([self.images, self.detections])
        all_reduce(counts)
        images, detections = counts.tolist()
        if images and not detections:
            raise InputError(
                f'no detection in {images:,} images, so that the metrics say nothing of the '
                'weights; train longer, see whether the loss falls (tools/visualize.py curves '
                'WORK_DIR), or lower the score_thr in model.test_cfg'
            )
