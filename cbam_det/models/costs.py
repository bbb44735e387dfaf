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
from .build import build_model, data_preprocessor, image_channels
from .built_model import count_parameters
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
    """Count the costs of the detector or classifier of `cfg`, in a two-stage detector with as many
    regions as in a test or a training.

    Raises:
        InputError: the size of the images is unknown, or the head takes other inputs than the maps
            of the neck, as DETR's does.
    """
    size = input_size(cfg)
    model = build_model(cfg).to('meta')
    model.eval()
    image = torch.empty(1, image_channels(cfg), *size, device='meta')
    cbams = [module for module in model.modules() if isinstance(module, CBAM)]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _forward(model, image, regions(model, training))
    except Exception as error:  # of any kind, from the code of another head
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise InputError(
            f'the costs of {type(model).__name__} cannot be counted ({reason}); use '
            "mmdet's get_flops.py"
        ) from error
    return Cost(
        size,
        len(cbams),
        count_parameters(model),
        count_parameters(*cbams),
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
        _forward(model, images, len(images) * regions(model, training=True))
    return sum(storage.nbytes() for storage in storages.values()) // len(images)


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of a test image that fills the config's `scale`, after padding.

    Raises:
        InputError: the test pipeline has no Resize with a `scale`.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    resizes = (node for _, node in walk(dataset) if kind_of(node) == 'Resize')
    scale = next((node['scale'] for node in resizes if node.get('scale')), None)
    if scale is None:
        raise InputError(
            'the size of the images is unknown, as test_dataloader.dataset.pipeline has no Resize '
            "with a scale; add dict(type='Resize', scale=(WIDTH, HEIGHT)) to it"
        )
    divisor = data_preprocessor(cfg).get('pad_size_divisor', 1)
    sides = (scale, scale) if isinstance(scale, int) else scale  # mmpretrain's may be one number
    width, height = (-(-side // divisor) * divisor for side in sides)
    return height, width


def regions(model: BaseDetector, training: bool) -> int:
    """The number of regions per image in the heads of a two-stage detector; otherwise 0."""
    if not getattr(model, 'with_roi_head', False):
        return 0
    if not training:
        rpn = model.test_cfg.get('rpn')  # Sparse R-CNN does not have it
        return rpn.max_per_img if rpn else model.rpn_head.num_proposals
    sampler = model.train_cfg.rcnn
    return (sampler[0] if isinstance(sampler, list) else sampler).sampler.num


def _forward(model: BaseDetector, image: Tensor, region_count: int) -> None:
    features = model.extract_feat(image)
    if not region_count:
        dense_head = model.bbox_head if hasattr(model, 'bbox_head') else model.head  # a classifier
        dense_head(features)
        return
    model.rpn_head(features)
    head = model.roi_head
    heads = head.bbox_head if isinstance(head.bbox_head, nn.ModuleList) else [head.bbox_head]
    extractors = head.bbox_roi_extractor
    extractor: Any = extractors[0] if isinstance(extractors, nn.ModuleList) else extractors
    side = extractor.roi_layers[0].output_size
    rois = image.new_empty(region_count, extractor.out_channels, *side)
    for bbox_head in heads:
        bbox_head(head.shared_head(rois) if head.with_shared_head else rois)
