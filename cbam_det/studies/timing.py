"""Time and memory of whole detectors and classifiers, measured in alternation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from ..engine.devices import adapt_amp
from ..models.build import build_model
from ..models.channels_last import to_channels_last
from ..models.costs import input_size
from ..utils.config import detector, is_detector
from ..utils.environment import keep_memory
from ..utils.records import origin_line, table_head, table_row
from ..utils.time_and_memory import alternate, memory

if TYPE_CHECKING:
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper


Calls = dict[str, Callable[[], Any]]


def detectors(
    configs: dict[str, Config],
    rounds: int,
    device: str,
    size: tuple[int, int] | None = None,
    batch: int = 2,
    calls_of: Mapping[str, Callable[..., Calls]] | None = None,
) -> dict:
    """Time a training step and inference of whole detectors in alternation, on random images.

    The process keeps freed memory, as `tools/train.py` and `tools/test.py` do, and a config with
    `channels_last` has that format. Inference uses the initial weights, so that the detectors
    differ only in the attention. mmpretrain's classifiers are timed in the same way.

    Args:
        configs: configs by name; the first is the baseline.
        size: height and width of the images in pixels; default: the test size of the first config.
        batch: images per training step; inference uses one.
        calls_of: by the name of a config, a function in place of `detector_calls`.

    Returns:
        'size'; 'batch'; 'rows': by name 'train_ms' and 'infer_ms' as median and quartiles, and
        'train_peak', the peak memory of a step in MiB without the weights.
    """
    if device == 'cpu':
        keep_memory()
    size = size or input_size(next(iter(configs.values())))
    calls = {
        name: (calls_of or {}).get(name, detector_calls)(cfg, size, batch, device)
        for name, cfg in configs.items()
    }
    # Inference first: after training steps the weights differ, and with them the work of NMS.
    infer_ms, train_ms = (
        alternate({name: own[kind] for name, own in calls.items()}, rounds, device)
        for kind in ('infer', 'train')
    )
    rows = {
        name: dict(train_ms=train_ms[name], infer_ms=infer_ms[name], train_peak=own['peak']())
        for name, own in calls.items()
    }
    return dict(size=list(size), batch=batch, rows=rows)


def detector_table(record: dict) -> str:
    """The table of `tools/experiment.py cost`; the first row is the baseline."""
    rows = table_head(['detector', 'train step, ms', 'inference, ms', 'train peak, MiB'])
    base = next(iter(record['rows'].values()))
    for name, cost in record['rows'].items():
        cells = []
        for key in ('train_ms', 'infer_ms'):
            median, low, high = cost[key]
            change = '' if cost is base else f', {100 * (median / base[key][0] - 1):+.1f}%'
            cells.append(f'{median:.0f} ({low:.0f} to {high:.0f}){change}')
        rows.append(table_row([name, *cells, f'{cost["train_peak"]:.0f}']))
    height, width = record['size']
    images = (
        f'{height}x{width} pixels, {record["batch"]} images per training step, 1 in inference; '
    )
    return '\n'.join([*rows, '', images + origin_line(record)])


def detector_calls(cfg: Config, size: tuple[int, int], batch: int, device: str) -> Calls:
    """A training step, inference and the peak memory of a step in MiB, of a detector: 'train',
    'infer' and 'peak'.
    """
    torch.manual_seed(0)
    model = build_model(cfg).to(device)
    if cfg.get('channels_last'):
        to_channels_last(model)
    wrapper = build_optim_wrapper(model, adapt_amp(cfg.optim_wrapper))
    train = _training(model, wrapper, _samples(cfg, batch, size))
    infer = _inference(model, _samples(cfg, 1, size))
    return dict(train=train, infer=infer, peak=lambda: round(memory(train, device)[1], 1))


def _samples(cfg: Config, batch: int, size: tuple[int, int]) -> dict:
    """Random images and their ground truth: ten boxes, or a class for a classifier."""
    random = np.random.default_rng(0)
    height, width = size
    inputs = [
        torch.from_numpy(random.integers(256, size=(3, height, width), dtype=np.uint8))
        for _ in range(batch)
    ]
    if not is_detector(cfg):
        from mmpretrain.structures import DataSample

        labels = random.integers(cfg.model.head.num_classes, size=batch)
        return dict(
            inputs=inputs, data_samples=[DataSample().set_gt_label(of) for of in labels.tolist()]
        )
    model = detector(cfg)
    head = (model.get('roi_head') or model).bbox_head
    classes = (head[0] if isinstance(head, (list, tuple)) else head).num_classes
    samples = []
    for _ in range(batch):
        corners = random.random((10, 2)) * (0.7 * width, 0.7 * height)
        sides = random.uniform(0.05, 0.3, (10, 2)) * (width, height)
        truth = InstanceData(
            bboxes=torch.from_numpy(np.hstack([corners, corners + sides])).float(),
            labels=torch.from_numpy(random.integers(classes, size=10)),
        )
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0)
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances, sample.ignored_instances = truth, truth[:0]
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def _training(model: BaseModel, wrapper: OptimWrapper, data: dict) -> Callable[..., object]:
    def step(forward_alone: bool = False) -> object:
        model.train()
        if not forward_alone:
            model.train_step(copy.deepcopy(data), wrapper)
            return None
        with wrapper.optim_context(model):
            return model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')

    return step


def _inference(model: BaseModel, data: dict) -> Callable[[], object]:
    def step() -> object:
        model.eval()
        with torch.no_grad():
            return model.test_step(copy.deepcopy(data))

    return step
