"""Untrained models whose attention and Grad-CAM pictures are not blank."""

from __future__ import annotations

import torch
from torch import nn

from cbam_det.apis.inference import Predictor
from cbam_det.utils.config import read_config

from ..conftest import CONFIGS

DIGITS = str(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')


def predictor(config: str = DIGITS, options: dict | None = None) -> Predictor:
    """An untrained model without pretrained weights."""
    torch.manual_seed(0)
    options = {'model.backbone.init_cfg': None, **(options or {})}
    if 'digits' not in config:
        options['model.test_cfg.score_thr'] = 0.0
    untrained = Predictor(read_config(config, options))
    for name, parameter in untrained.model.named_parameters():
        if 'cls' in name and parameter.dim() > 1:  # a new head gives all classes the same score
            nn.init.normal_(parameter, 0, 0.01)
        elif name.endswith(('bn2.weight', 'bn3.weight')):  # new residual branches output zeros
            nn.init.ones_(parameter)
    return untrained
