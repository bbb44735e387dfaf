"""A study of three rows, and records of its runs."""

from __future__ import annotations

from pathlib import Path

from cbam_det.studies.records import config_hash
from cbam_det.studies.study import Study

from ..study_records import put_record

SMALL = """
title: small
metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}
seeds: [0, 1, 2]
rows:
  none: {config: faster_rcnn_r50_digits, paper: {AP: 27.0}}
  CBAM: {config: faster_rcnn_r50_cbam_digits, against: none, paper: {AP: 28.1}}
  paper start:
    config: faster_rcnn_r50_cbam_digits
    against: none
    overrides: {model.backbone.plugins.0.cfg.start: paper}
"""
ENVIRONMENT = dict(hardware='a CPU (2 cores)', threads=1, torch='2.12.1')


def record(results: Path, study: Study, row: str, aps: list[float]) -> None:
    """Write a record for each seed of a row, with these APs and twice these values as AP50."""
    for seed, ap in enumerate(aps):
        metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': 2 * ap}
        validation = {4: {'coco/bbox_mAP': ap / 2}, 8: {'coco/bbox_mAP': ap}}
        digest = config_hash(study, study.rows[row], seed)
        put_record(
            results,
            study,
            study.rows[row],
            seed,
            metrics=metrics,
            validation=validation,
            environment=ENVIRONMENT,
            config_hash=digest,
            train_seconds=120 + seed,
            commit='0123456789',
        )
