"""Apply the patches of mmdet's metrics that every run of ours applies."""

from cbam_det.evaluation.metrics import fix_metrics

fix_metrics()
