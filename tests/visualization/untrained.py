"""Models at their start, without pretrained weights, whose pictures are not blank."""

from __future__ import annotations

import torch
from torch import nn

from cbam_det.apis.inference import Predictor
from cbam_det.utils.config import read_config

from ..conftest import CONFIGS

DIGITS = str(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')


def predictor(config: str = DIGITS, options: dict | None = None) -> Predictor:
    """A model at its start, without pretrained weights."""
    torch.manual_seed(0)
    options = {'model.backbone.init_cfg': None, **(options or {})}
    if 'digits' not in config:
        options['model.test_cfg.score_thr'] = 0.0
    made = Predictor(read_config(config, options))
    for name, one in made.model.named_parameters():
        if 'cls' in name and one.dim() > 1:  # at its start a head gives all classes one score
            nn.init.normal_(one, 0, 0.01)
        elif name.endswith(('bn2.weight', 'bn3.weight')):  # and residual branches end in 0
            nn.init.ones_(one)
    return made
