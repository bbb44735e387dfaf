"""Count parameters, multiply-adds and memory of a config's detector on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..utils.config import kind_of, walk
from ..utils.errors import InputError
from .build import build_model, image_channels
from .layers import CBAM
from .layers.torch_private import storage_key

if TYPE_CHECKING:
    from mmdet.models import BaseDetector


@dataclass(frozen=True)
class Cost:
    """The cost of a detector for one image.

    Attributes:
        size: height and width of the padded test image in pixels.
        cbams: the number of CBAMs (SE modules included).
        parameters: the number of all parameters.
        attention: the number of the CBAMs' parameters.
        multiply_adds: of all convolutions and linear layers, which the paper calls FLOPs; in a
            two-stage detector for as many regions as the RPN can return.
    """

    size: tuple[int, int]
    cbams: int
    parameters: int
    attention: int
    multiply_adds: int


def count_costs(cfg: Config, training: bool = False) -> Cost:
    """Count the costs of the detector of `cfg`, with as many regions as in a test or a training.

    Raises:
        InputError: the size of its images is unknown, or its heads need more than feature maps.
    """
    size = input_size(cfg)
    model = build_model(cfg).to('meta')
    model.eval()
    image = torch.empty(1, image_channels(cfg), *size, device='meta')
    cbams = [module for module in model.modules() if isinstance(module, CBAM)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        try:
            _forward(model, image, regions=regions(model, training))
        except Exception as error:  # such as DETR's, whose heads take queries
            raise InputError(
                f'the multiply-adds of {type(model).__name__} cannot be counted '
                f"({type(error).__name__}: {error}); use mmdet's get_flops.py"
            ) from error
    return Cost(
        size,
        len(cbams),
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for cbam in cbams for parameter in cbam.parameters()),
        counter.get_total_flops() // 2,
    )


def activation_bytes(cfg: Config) -> int:
    """Bytes per image that autograd saves for the backward pass in float32, without the losses.

    Counted in a forward pass of two images, since BatchNorm needs more than one value. Every
    storage counts once; parameters and buffers do not count.
    """
    model = build_model(cfg).to('meta')
    model.train()
    state_storages = {
        storage_key(tensor.untyped_storage()) for tensor in model.state_dict().values()
    }
    storages: dict[int, torch.UntypedStorage] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage_key(storage)
        if key not in state_storages:
            storages[key] = storage  # kept alive, so that no other storage gets its key
        return tensor

    images = torch.empty(2, image_channels(cfg), *input_size(cfg), device='meta')
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        _forward(model, images, regions=len(images) * regions(model, training=True))
    return sum(storage.nbytes() for storage in storages.values()) // len(images)


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of a test image that fills the config's `scale`, after padding.

    Raises:
        InputError: no transform of the test data resizes images to a scale.
    """
    steps = [node for _, node in walk(cfg.get('test_dataloader'), '') if 'Resize' in kind_of(node)]
    scale = next((node['scale'] for node in steps if node.get('scale')), None)
    if scale is None:
        raise InputError(
            f'{cfg.filename} has no Resize with a scale in its test_dataloader, so the size of its '
            "images is unknown; add dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True)"
        )
    width, height = (scale, scale) if isinstance(scale, int) else scale
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def regions(model: BaseDetector, training: bool) -> int:
    """The number of regions per image in the heads of a two-stage detector; otherwise 0."""
    if not getattr(model, 'with_roi_head', False):
        return 0
    if not training:
        rpn = model.test_cfg.get('rpn')  # Sparse R-CNN does not have it
        return rpn.max_per_img if rpn else model.rpn_head.num_proposals
    sampler = model.train_cfg.rcnn
    return (sampler[0] if isinstance(sampler, list) else sampler).sampler.num


def _forward(model: BaseDetector, image: Tensor, regions: int) -> None:
    features = model.extract_feat(image)
    if not regions:
        model.bbox_head(features)
        return
    model.rpn_head(features)
    head = model.roi_head
    heads = head.bbox_head if isinstance(head.bbox_head, nn.ModuleList) else [head.bbox_head]
    extractors = head.bbox_roi_extractor
    extractor: Any = extractors[0] if isinstance(extractors, nn.ModuleList) else extractors
    side = extractor.roi_layers[0].output_size
    rois = image.new_empty(regions, extractor.out_channels, *side)
    for bbox_head in heads:
        bbox_head(head.shared_head(rois) if head.with_shared_head else rois)
