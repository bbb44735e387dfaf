"""Which of timm's attentions can replace CBAM: build each into models and train one step."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import warnings
from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import cbam_det  # noqa: F401 (it registers TimmAttention)
from benchmarks.tables import timm_table
from cbam_det.models.plugins import TIMM_ATTENTIONS
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors
from cbam_det.utils.records import write_record

IMAGES = (2, 3, 64, 64)
PYRAMID = [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
SSD = dict(depth=16, ceil_mode=True, out_indices=(3, 4), out_feature_indices=(22, 34))
# Name -> config of the model, and the shapes of its input.
MODELS_TO_TRY = {
    'ResNet-50': (dict(base_type='ResNet', depth=50), IMAGES),
    'ResNet-18': (dict(base_type='ResNet', depth=18), IMAGES),
    'MobileNetV2': (dict(base_type='MobileNetV2'), IMAGES),
    'SSD (VGG16)': (dict(base_type='SSDVGG', input_size=300, **SSD), (2, 3, 96, 96)),
    'FPN': (dict(base_type='FPN', in_channels=[16, 32, 64], out_channels=32, num_outs=3), PYRAMID),
}
EXAMPLE = 'example: python -m benchmarks.attentions --out results/timm_attentions.json'


def attempt(name: str, model: str) -> str:
    """Build timm's attention `name` into a model and train a step; '' or the reason of failure."""
    torch.manual_seed(0)
    cfg, shapes = MODELS_TO_TRY[model]
    plugins = [dict(cfg=dict(type='TimmAttention', name=name))]
    try:
        with DefaultScope.overwrite_default_scope('mmdet'):
            net = MODELS.build(dict(type='WithPlugins', plugins=plugins, **cfg))
        return '' if _trains(net, shapes) else 'no weight changes'
    except (InputError, RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        return re.sub(r'^timm cannot build the attention .*? channels \((.*)\)$', r'\1', reason)


def _trains(net: nn.Module, shapes: tuple | list) -> bool:
    net.train()
    x = torch.rand(shapes) if isinstance(shapes, tuple) else [torch.rand(shape) for shape in shapes]
    outputs = net(x)
    loss = sum(level.square().mean() for level in outputs if isinstance(level, Tensor))
    loss.backward()
    before = [value.detach().clone() for value in net.inserted.parameters()]
    torch.optim.SGD(net.parameters(), 0.1).step()
    after = list(net.inserted.parameters())
    moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    return moved and bool(torch.isfinite(loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument('--out', type=Path, help='JSON file for the record')
    args = parser.parse_args()
    warnings.simplefilter('ignore')  # those of timm and mmdet
    pairs = [(name, model) for name in TIMM_ATTENTIONS for model in MODELS_TO_TRY]
    reasons: dict[str, dict[str, str]] = {name: {} for name in TIMM_ATTENTIONS}
    for name, model in track(pairs, 'attentions', console=Console(stderr=True)):
        reasons[name][model] = attempt(name, model)
    command = shlex.join(['python', '-m', 'benchmarks.attentions', *sys.argv[1:]])
    print(timm_table(write_record(args.out, command, dict(reasons=reasons))))


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
