"""Compare CBAM with float64 and with the paper's counts, and two evaluators of COCO."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmengine.registry import METRICS, MODELS, DefaultScope
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.detections import random_detections
from cbam_det.models.layers import CBAM

# Tables 4 and 5 of the paper: options of the backbone; then parameters (millions) and multiply-adds
# (1e9, 'GFLOPs') without attention, with SE and with CBAM.
RESNET = dict(type='mmdet.ResNet', style='caffe')

RESNEXT = dict(RESNET, type='mmdet.ResNeXt', groups=32, base_width=4)

MOBILENET = dict(type='MobileNetV1', out_indices=(4,))

TABLES_4_5 = {
    'ResNet-18': (dict(depth=18), (11.69, 1.814), (11.78, 1.814), (11.78, 1.815)),
    'ResNet-34': (dict(depth=34), (21.80, 3.664), (21.96, 3.664), (21.96, 3.665)),
    'ResNet-50': (dict(depth=50), (25.56, 3.858), (28.09, 3.860), (28.09, 3.864)),
    'ResNet-101': (dict(depth=101), (44.55, 7.570), (49.33, 7.575), (49.33, 7.581)),
    'WideResNet-18, 1.5': (
        dict(depth=18, base_channels=96, stem_channels=64),
        (25.88, 3.866),
        (26.07, 3.867),
        (26.08, 3.868),
    ),
    'WideResNet-18, 2.0': (
        dict(depth=18, base_channels=128, stem_channels=64),
        (45.62, 6.696),
        (45.97, 6.696),
        (45.97, 6.697),
    ),
    'ResNeXt-50, 32x4d': (dict(RESNEXT, depth=50), (25.03, 3.768), (27.56, 3.771), (27.56, 3.774)),
    'ResNeXt-101, 32x4d': (
        dict(RESNEXT, depth=101),
        (44.18, 7.508),
        (48.96, 7.512),
        (48.96, 7.519),
    ),
    'MobileNet, 0.7': (
        dict(MOBILENET, widen_factor=0.7),
        (2.30, 0.283),
        (2.71, 0.283),
        (2.71, 0.289),
    ),
    'MobileNet, 1.0': (MOBILENET, (4.23, 0.569), (5.07, 0.570), (5.07, 0.576)),
}


def counts() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Parameters (millions) and multiply-adds (1e9) of tables 4 and 5 of the paper.

    They are counted in convolutions and linear layers for 224 x 224 pixels and 1,000 classes, with
    the strides in the 1x1 convolutions (`style='caffe'`), which reproduces the paper's numbers.

    Returns:
        By backbone and attention ('none', 'SE', 'CBAM'): 'ours' and 'paper', each with parameters
        and multiply-adds.
    """
    gates = dict(none=None, SE=dict(order='channel', pools='avg'), CBAM={})
    rows: dict = {}
    for name, (options, *paper) in TABLES_4_5.items():
        mobile = options.get('type') == 'MobileNetV1'
        places = ['layer*.*.bn2' if options.get('depth', 0) < 50 else 'layer*.*.bn3']
        if mobile:  # after every convolution
            places = ['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv']
        for (attention, cfg), published in zip(gates.items(), paper, strict=True):
            host = dict({} if mobile else RESNET, **options)
            if cfg is not None:
                plugins = [dict(cfg=dict(type='CBAM', **cfg), after=places)]
                host.update(type='WithPlugins', base_type=host['type'], plugins=plugins)
            with DefaultScope.overwrite_default_scope('mmdet'):
                net = MODELS.build(host).to('meta')
            image = torch.empty(1, 3, 224, 224, device='meta')
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                features = net(image)[-1].mean((2, 3))
                head = nn.Linear(features.shape[1], 1000, device='meta')
                head(features)
            parameters = sum(
                parameter.numel() for part in (net, head) for parameter in part.parameters()
            )
            ours = [round(parameters / 1e6, 2), round(counter.get_total_flops() / 2e9, 3)]
            rows.setdefault(name, {})[attention] = dict(ours=ours, paper=list(published))
    return rows


def rounding(shape: tuple[int, int, int, int], device: str) -> dict[str, dict[str, float]]:
    """Relative error (in norm) of the output and the gradients against float64, by dtype.

    The feature map has the dtype; the gates stay in float32, as under autocast.
    """
    torch.manual_seed(0)
    kinds = ['float32', 'bfloat16']
    if device == 'cuda':
        kinds.append('float16')
    exact = CBAM(shape[1], start='paper', memory_efficient=False).double()
    for parameter in exact.parameters():  # initial weights of zero would hide errors
        nn.init.normal_(parameter, 0.0, 0.3)
    x = torch.randn(shape, dtype=torch.float64)
    g = torch.randn(shape, dtype=torch.float64)

    def gradients(model: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        x = x.requires_grad_()
        y = model(x)
        of_x, *of_parameters = torch.autograd.grad(y, (x, *model.parameters()), g)
        flat = torch.cat([tensor.detach().flatten().double().cpu() for tensor in of_parameters])
        return dict(output=y, input=of_x, parameters=flat)

    errors = {}
    for kind in kinds:
        dtype = getattr(torch, kind)
        rounded = [x.to(dtype), g.to(dtype)]
        exact_results = gradients(exact, *(tensor.double() for tensor in rounded))
        for efficient in (True, False):
            model = copy.deepcopy(exact).float().to(device)
            model.memory_efficient = efficient
            with torch.autocast(device, dtype, enabled=kind != 'float32'):
                results = gradients(model, *(tensor.to(device) for tensor in rounded))
            name = kind if efficient else f'{kind}, memory_efficient=False'
            errors[name] = {
                quantity: float(f'{_relative(results[quantity], exact_result):.1e}')
                for quantity, exact_result in exact_results.items()
            }
    return errors


def _relative(result: Tensor, exact: Tensor) -> float:
    result = result.detach().double().cpu()
    return float((result - exact).norm() / exact.norm())


def evaluation(images: int = 5000, classes: int = 80, detections: int = 100) -> dict:
    """Time pycocotools and faster-coco-eval once each on random boxes, and compare their results.

    Returns:
        'images', 'truths' and 'detections' (their numbers), the seconds of both evaluators, and the
        largest difference in summary, precisions and recalls.
    """
    content, detections_of_images = random_detections(images, classes, detections)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, 'annotations.json')
        path.write_text(json.dumps(content), encoding='utf-8')
        metric = METRICS.build(dict(type='FastCocoMetric', ann_file=str(path)))
        truth = COCO(str(path))
        rows = [
            dict(image_id=image, category_id=label + 1, score=score, bbox=[x, y, x2 - x, y2 - y])
            for image, values in enumerate(detections_of_images, 1)
            for (x, y, x2, y2), score, label in zip(*(v.tolist() for v in values), strict=True)
        ]
        seconds, counts = [], []
        for evaluator in (COCOeval, metric.evaluator):
            coco_eval = evaluator(truth, truth.loadRes(rows), 'bbox')
            coco_eval.params.maxDets = [100, 300, 1000]
            start = time.perf_counter()
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
            seconds.append(round(time.perf_counter() - start, 1))
            counts.append([coco_eval.stats, coco_eval.eval['precision'], coco_eval.eval['recall']])
    return dict(
        images=images,
        truths=len(content['annotations']),
        detections=len(rows),
        pycocotools_s=seconds[0],
        faster_coco_eval_s=seconds[1],
        largest_difference=max(float(np.abs(a - b).max()) for a, b in zip(*counts, strict=True)),
    )
