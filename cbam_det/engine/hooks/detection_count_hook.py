"""A test without any detection is an error, since its metrics do not measure the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...utils.errors import InputError
from ...utils.installation import tool_command


class DetectionCountHook(Hook):
    """Counts the detections of a test. `CheckedRunner` adds this hook to every test.

    Without it, MMEngine logs that the results are empty and the test succeeds.
    """

    def __init__(self) -> None:
        self.images = self.detections = 0

    def before_test(self, runner: Runner) -> None:
        """Reset the counts."""
        self.images = self.detections = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Count the images and detections of a batch."""
        for sample in outputs or ():
            if 'pred_instances' in sample:
                self.images += 1
                self.detections += len(sample.pred_instances)

    def check(self, checkpoint: str | None = None) -> None:
        """Check the counts over all processes; every process must call this.

        Args:
            checkpoint: path or URL of the tested weights.

        Raises:
            InputError: a detector was tested and has no detection in any image.
        """
        counts = torch.tensor([self.images, self.detections])
        all_reduce(counts)
        images, detections = counts.tolist()
        if images and not detections:
            curves = ''
            if checkpoint and Path(checkpoint).is_file():
                curves = f' ({tool_command("visualize", "curves", Path(checkpoint).parent)})'
            raise InputError(
                f'there is no detection in {images:,} images, so the metrics do not measure the '
                f'weights; train longer, check that the loss decreases{curves}, or lower score_thr '
                'in model.test_cfg'
            )
