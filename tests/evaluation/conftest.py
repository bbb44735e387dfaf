"""mmdet's metrics as every run of ours has them."""

from cbam_det.evaluation.metrics import fix_metrics

fix_metrics()
