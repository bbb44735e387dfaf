"""Run the check before a training on a single data set."""

from __future__ import annotations

from mmengine.config import Config

from cbam_det.datasets.validation.config import check_data
from cbam_det.datasets.validation.dataset import Summary
from cbam_det.utils.run_config import RunConfig


def check_dataset(dataset: dict, full: bool = False) -> Summary | None:
    """Check a training data set; returns None if it is neither COCO nor VOC."""
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    return check_data(RunConfig.from_cfg(cfg), ('train',), full).get('train_dataloader.dataset')
