"""Parameters and multiply-adds of a config's detector, counted on shapes alone (no arithmetic)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .attention import CBAM
from .preflight import build_model, walk


@dataclass(frozen=True)
class Cost:
    """What one image costs a detector.

    Attributes:
        size: height and width of the padded image that it is tested on, in pixels.
        cbams: how many CBAMs (or SEs) it has.
        parameters: all of them.
        attention: those of the CBAMs.
        multiply_adds: of all convolutions and linear layers, the paper's 'FLOPs'; for a two-stage
            detector with the regions that its RPN may pass on.
    """

    size: tuple[int, int]
    cbams: int
    parameters: int
    attention: int
    multiply_adds: int


def count(cfg: Config) -> Cost:
    """Count the detector of `cfg`."""
    size = input_size(cfg)
    model = build_model(cfg).to('meta')
    model.eval()
    image = torch.empty(1, 3, *size, device='meta')
    cbams = [module for module in model.modules() if isinstance(module, CBAM)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _forward(model, image)
    return Cost(
        size,
        len(cbams),
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for cbam in cbams for parameter in cbam.parameters()),
        counter.get_total_flops() // 2,
    )


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of a test image of the config's aspect, as the preprocessor pads it."""
    dataset = cfg.test_dataloader.dataset
    scale = next(node.scale for _, node in walk(dataset, '') if node.get('type') == 'Resize')
    divisor = cfg.model.data_preprocessor.get('pad_size_divisor', 1)
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


def _forward(model: nn.Module, image: Tensor) -> None:
    features = model.extract_feat(image)
    if not getattr(model, 'with_roi_head', False):
        model.bbox_head(features)
        return
    model.rpn_head(features)
    head = model.roi_head
    heads = head.bbox_head if isinstance(head.bbox_head, nn.ModuleList) else [head.bbox_head]
    extractor = head.bbox_roi_extractor
    extractor = extractor[0] if isinstance(extractor, nn.ModuleList) else extractor
    side = extractor.roi_layers[0].output_size
    regions = model.test_cfg.rpn.max_per_img
    rois = torch.empty(regions, extractor.out_channels, *side, device='meta')
    for bbox_head in heads:
        bbox_head(head.shared_head(rois) if head.with_shared_head else rois)
