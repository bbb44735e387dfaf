"""Measure time, memory and rounding of CBAM and of whole detectors, in alternation."""

import argparse
import copy
import json
import os
import shlex
import sys
import warnings
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from benchmarks import compile_wait, modules, references, threshold
from benchmarks.own_process import calls_in_own_process
from benchmarks.plot import costs
from benchmarks.tables import TABLES
from cbam_det.models.layers.memory_efficient import SMALL
from cbam_det.studies.timing import detectors
from cbam_det.utils.config import find_config, override
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors
from cbam_det.utils.options import parse_options
from cbam_det.utils.records import write_record
from cbam_det.visualization.figures import save

EXAMPLES = """examples:
  python -m benchmarks.speed module --compile --out results/benchmark_module.json
  python -m benchmarks.speed module --shapes 2x64x56x56 --rounds 50
  python -m benchmarks.speed detector faster_rcnn_r50 faster_rcnn_r50_cbam --size 512x512
  python -m benchmarks.speed detector faster_rcnn_r50 faster_rcnn_r50_cbam --size 512x512 \\
    --variant "model.backbone.plugins.0.stages=(True,True,True,True)"
  python -m benchmarks.speed detector faster_rcnn_r50 faster_rcnn_r50_cbam --size 512x512 \\
    --as-in-mmdet --channels-last --rounds 12
  python -m benchmarks.speed threshold --rounds 50 --out results/benchmark_threshold.json
  ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.speed threshold --rounds 50
  python -m benchmarks.speed plot results/benchmark_module.json docs/images/benchmark.svg
  python -m benchmarks.speed counts
  python -m benchmarks.speed precision
  python -m benchmarks.speed evaluation --images 5000"""


def numbers(text: str, quantity: str, template: str) -> tuple[int, ...]:
    """Parse '2x256x200x200' into as many numbers as `template` ('NxCxHxW') has."""
    try:
        values = tuple(map(int, text.split('x')))
    except ValueError:
        values = ()
    if len(values) != len(template.split('x')) or min(values) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a {quantity}; give {template}')
    return values


def shape(text: str) -> tuple[int, ...]:
    values = numbers(text, 'shape', 'NxCxHxW')
    if values[1] < 16:
        raise argparse.ArgumentTypeError(
            f'{text!r} has {values[1]} channels, but the modules divide them by 16; give 16 or more'
        )
    return values


def size(text: str) -> tuple[int, ...]:
    return numbers(text, 'size', 'HxW')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--out', type=Path, help='JSON file for the record')
    timed = argparse.ArgumentParser(add_help=False)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    timed.add_argument(
        '--device', default=device, choices=['cpu', 'cuda'], help='(default: %(default)s)'
    )
    rounds = argparse.ArgumentParser(add_help=False)
    rounds.add_argument(
        '--rounds', type=int, default=10, help='measurements of each (default: %(default)s)'
    )
    subparsers = parser.add_subparsers(dest='kind', required=True)
    subparser = subparsers.add_parser(
        'module', parents=[common, timed, rounds], help='compare CBAM with other implementations'
    )
    subparser.add_argument(
        '--shapes',
        type=shape,
        nargs='+',
        default=modules.SHAPES,
        help='NxCxHxW of the feature maps',
    )
    subparser.add_argument(
        '--compile', action='store_true', help='add versions with torch.compile; this takes minutes'
    )
    subparser = subparsers.add_parser(
        'detector', parents=[common, timed, rounds], help='compare whole detectors with a baseline'
    )
    subparser.add_argument(
        'configs', nargs='+', help='config files or names of shipped configs, the baseline first'
    )
    subparser.add_argument(
        '--variant',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='add the last config with this override; can be given several times',
    )
    subparser.add_argument(
        '--size', type=size, help='HxW of the images (default: test size of the first config)'
    )
    subparser.add_argument(
        '--as-in-mmdet',
        action='store_true',
        help="add the first config as mmdet's tools run it, without our defaults",
    )
    subparser.add_argument(
        '--channels-last', action='store_true', help='add each detector in channels_last'
    )
    subparser.add_argument(
        '--amp', action='store_true', help='add each detector in mixed precision'
    )
    subparser.add_argument(
        '--batch', type=int, default=2, help='images per training step (default: %(default)s)'
    )
    subparsers.add_parser(
        'threshold',
        parents=[common, timed, rounds],
        help='find the size from which the memory-efficient pass is faster than autograd',
    )
    subparser = subparsers.add_parser(
        'compile', parents=[common, timed], help='time the wait that compile=True causes'
    )
    subparser.add_argument(
        '--size', type=size, default=(512, 512), help='HxW of the images (default: 512x512)'
    )
    subparser = subparsers.add_parser('plot', help='plot time against the size of the feature map')
    subparser.add_argument('record', type=Path, help='JSON file that `module --out` wrote')
    subparser.add_argument('picture', type=Path, help='.png, .svg or .jpg')
    subparsers.add_parser(
        'counts',
        parents=[common],
        help="count parameters and multiply-adds of the paper's tables 4 and 5",
    )
    subparsers.add_parser(
        'precision', parents=[common, timed], help='measure rounding errors against float64'
    )
    subparser = subparsers.add_parser(
        'evaluation', parents=[common], help='compare faster-coco-eval with pycocotools'
    )
    subparser.add_argument(
        '--images', type=int, default=5000, help='number of random images (default: %(default)s)'
    )
    return parser.parse_args()


def mixed(cfg: Config) -> Config:
    """The config as `tools/train.py --amp` trains it."""
    cfg = copy.deepcopy(cfg)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    return cfg


def in_channels_last(cfg: Config, value: bool = True) -> Config:
    """The config as `tools/train.py --channels-last` trains it, or with `--no-channels-last`."""
    return override(copy.deepcopy(cfg), dict(channels_last=value))


def measure(args: argparse.Namespace) -> dict:
    if args.kind == 'module':
        steps = modules.modules(args.shapes, args.rounds, args.device, args.compile)
        track_to = Console(stderr=True)
        total = 2 * len(args.shapes)
        return dict(maps=list(track(steps, 'maps', total, console=track_to)))
    if args.kind == 'detector':
        configs = {Path(name).stem: Config.fromfile(find_config(name)) for name in args.configs}
        last, base = list(configs.items())[-1]
        for variant in args.variant:
            options = parse_options([variant])
            configs[f'{last}, {variant}'] = override(copy.deepcopy(base), options)
        as_in_mmdet: dict[str, Config] = {}
        if args.as_in_mmdet:
            first, baseline = next(iter(configs.items()))
            as_in_mmdet = {f"{first}, mmdet's tools": in_channels_last(baseline, False)}
        if args.channels_last:
            configs |= {
                f'{name}, --channels-last': in_channels_last(cfg) for name, cfg in configs.items()
            }
        if args.amp:
            configs |= {f'{name}, --amp': mixed(cfg) for name, cfg in configs.items()}
        return detectors(
            as_in_mmdet | configs,
            args.rounds,
            args.device,
            args.size,
            args.batch,
            dict.fromkeys(as_in_mmdet, calls_in_own_process),
        )
    if args.kind == 'threshold':
        maps = list(threshold.measure(args.rounds, args.device))
        best = threshold.best_limit(maps)
        return dict(limit=best, loss=threshold.losses(maps)[best], small=SMALL, maps=maps)
    if args.kind == 'compile':
        return dict(size=list(args.size), rows=compile_wait.measure(args.size, args.device))
    if args.kind == 'counts':
        return dict(rows=references.counts())
    if args.kind == 'precision':
        return dict(rows=references.rounding((2, 256, 56, 56), args.device))
    return references.evaluation(args.images)


def main() -> None:
    args = parse_args()
    if args.kind == 'plot':
        if not args.record.is_file():
            raise InputError(
                f'there is no record {args.record}; make it: python -m benchmarks.speed module '
                f'--out {args.record}'
            )
        maps = json.loads(args.record.read_text(encoding='utf-8')).get('maps')
        if not maps:
            raise InputError(f'{args.record} has no key maps; give a record of `module --out`')
        print(save(costs(maps), args.picture))
        return
    for name in ('rounds', 'batch', 'images'):
        if getattr(args, name, 1) < 1:
            raise InputError(f'--{name} {getattr(args, name)} is too small; give 1 or more')
    if getattr(args, 'device', '') == 'cuda' and not torch.cuda.is_available():
        raise InputError(
            '--device cuda: torch finds no GPU; leave the option out to measure the CPU'
        )
    warnings.simplefilter('ignore')
    # Which instructions torch uses, if not the newest of the CPU.
    instructions = os.environ.get('ATEN_CPU_CAPABILITY')
    variables = [f'ATEN_CPU_CAPABILITY={instructions}'] if instructions else []
    command = shlex.join([*variables, 'python', '-m', 'benchmarks.speed', *sys.argv[1:]])
    record = write_record(args.out, command, measure(args))
    print(TABLES[f'benchmark_{args.kind}'](record))


if __name__ == '__main__':
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # hide the log of the profiler
    sys.exit(one_line_errors(main))
