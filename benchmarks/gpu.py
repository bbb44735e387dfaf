"""Measure CBAM on a GPU within ten minutes, and say which of its passes should be the default.

It needs no network and no mmdet, but torch, torchvision and numpy; mmengine and mmcv (or mmcv-lite)
for the backbone, pytest for the tests, timm for its module. The record names what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import modules, threshold
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors
from cbam_det.utils.records import origin_line, table_row, write_record
from cbam_det.utils.time_and_memory import alternate, memory

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ('float32', 'bfloat16', 'float16')
# The passes between which the default is chosen, by their names in the records.
PASSES = {
    'memory-efficient': 'cbam_det',
    'plain': 'cbam_det, memory_efficient=False',
    'compiled': 'cbam_det, compiled',
}
BACKBONES: dict[str, dict | None] = {
    'no attention': None,
    'memory-efficient': dict(memory_efficient=True),
    'plain': dict(memory_efficient=False),
    'compiled': dict(compile=True),
}
EXAMPLES = """examples:
  python -m benchmarks.gpu --out results/gpu.json
  python -m benchmarks.gpu --device cpu --shapes 1x32x8x8 --image 64 --rounds 1 --no-compile"""


class Deadline:
    """Ends a series of measurements when the time is over, and counts what is left out."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.left_out: list[str] = []

    def allows(self, part: str) -> bool:
        """Whether there is time for a part; if not, it is noted as left out."""
        if time.monotonic() < self.end:
            print(part, file=sys.stderr, flush=True)
            return True
        self.left_out.append(part)
        return False

    @property
    def seconds(self) -> float:
        return max(1.0, self.end - time.monotonic())


def run_tests(deadline: Deadline) -> dict:
    """Run the tests that need a GPU.

    Returns:
        'result': the last line of pytest ('14 passed in 9.1s'), or why they did not run; and
        'passed', whether all of them passed.
    """
    if importlib.util.find_spec('pytest') is None:
        return dict(result='not run: pytest is not installed', passed=False)
    # The other tests' conftest.py needs mmdet.
    options = ('-q', '--noconftest', '-p', 'no:cacheprovider', '-W', 'ignore', '-o', 'addopts=')
    command = [sys.executable, '-m', 'pytest', *options, 'tests/models/test_gpu.py']
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=deadline.seconds
        )
    except subprocess.TimeoutExpired:
        return dict(result=f'not finished in {deadline.seconds:.0f} s', passed=False)
    lines = (done.stdout or done.stderr).strip().splitlines() or ['no output']
    failed = [line for line in lines if line.startswith(('FAILED', 'ERROR'))]
    return dict(result=lines[-1].strip('= '), passed=done.returncode == 0, failed=failed)


class Backbone(nn.Module):
    """torchvision's ResNet-50 as mmdet trains it: the stem and `layer1` are frozen, and the norms
    keep their statistics.
    """

    def __init__(self, attention: dict | None) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.net = resnet50(weights=None)
        for part in (self.net.conv1, self.net.bn1, self.net.layer1):
            part.requires_grad_(False)
        if attention is not None:
            import cbam_det.models.plugins  # noqa: F401 (it registers CBAM)
            from cbam_det.models.insertion import insert

            insert(self.net, [dict(cfg=dict(type='CBAM', **attention))])

    def train(self, mode: bool = True) -> Backbone:
        """As mmdet's ResNet with `norm_eval=True`; the gates' norms are not concerned."""
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, 1000)."""
        return self.net(x)


def backbones(
    size: int, rounds: int, device: str, dtype: str, compiled: bool, batch: int = 2
) -> dict:
    """Time and memory of a step of a ResNet-50 with and without attention, in alternation.

    Returns:
        'dtype', and 'rows': by name 'train_ms' as median and quartiles and 'train_peak' in MiB.
    """
    steps: dict[str, Callable[..., object]] = {}
    x = torch.rand(batch, 3, size, size, device=device, dtype=getattr(torch, dtype))
    g = torch.rand(batch, 1000, device=device)
    for name, attention in BACKBONES.items():
        if compiled or name != 'compiled':
            torch.manual_seed(0)
            steps[name] = modules.training(Backbone(attention).to(device), x, g)
    times = alternate(steps, rounds, device)
    rows = {
        name: dict(train_ms=times[name], train_peak=round(memory(step, device)[1], 1))
        for name, step in steps.items()
    }
    return dict(dtype=dtype, rows=rows)


def ratios(rows: Sequence[dict], key: str) -> dict[str, float]:
    """The geometric mean of each pass's time over the fastest pass's, over the maps of `rows`."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        times = {
            name: row['rows'][module][key][0]
            for name, module in PASSES.items()
            if module in row['rows']
        }
        for name, value in times.items():
            sums.setdefault(name, []).append(math.log(value / min(times.values())))
    return {name: math.exp(sum(values) / len(values)) for name, values in sums.items()}


def measure(args: argparse.Namespace) -> Iterator[dict]:
    """Measure one part after the other; yields the record so far after each part."""
    deadline = Deadline(args.minutes)
    record: dict = dict(backbones=[], maps=[], left_out=deadline.left_out)
    if deadline.allows('tests'):
        record['tests'] = run_tests(deadline)
        yield record
    for dtype in args.dtypes:
        if deadline.allows(f'ResNet-50, {dtype}'):
            try:
                row = backbones(args.image, args.rounds, args.device, dtype, args.compile)
                record['backbones'].append(row)
            except ImportError as error:
                deadline.left_out.append(f'ResNet-50, {dtype}: {error}')
            yield record
    if deadline.allows('threshold'):
        maps = list(threshold.measure(args.rounds, args.device, args.numbers))
        record['threshold'] = threshold.best_limit(maps)
        yield record
    for dtype in args.dtypes:
        for shape in args.shapes:
            name = f'{"x".join(map(str, shape))}, {dtype}'
            if deadline.allows(name):
                kind = getattr(torch, dtype)
                rows = modules.modules([shape], args.rounds, args.device, args.compile, kind)
                record['maps'] += [dict(row, dtype=dtype) for row in rows]
                yield record


def verdict(record: dict) -> list[str]:
    """Which pass a GPU should have, by the times of the maps: a line for each kind of pass."""
    lines = []
    for quantity, key in (('training', 'train_ms'), ('inference', 'infer_ms')):
        means = ratios(record['maps'], key)
        if means:
            order = sorted(means, key=lambda name: means[name])
            times = ', '.join(f'{name} {means[name]:.2f}x' for name in order)
            lines.append(f'{quantity}: {order[0]} should be the default ({times} the fastest)')
    return lines


def gpu_table(record: dict) -> str:
    """The tables of a record, and what follows from it."""
    lines = [f'tests: {record["tests"]["result"]}', ''] if 'tests' in record else []
    if record['backbones']:
        lines += [table_row(['ResNet-50', 'train step, ms', 'train peak, MiB'])]
        lines += ['| --- | ---: | ---: |']
    for backbone in record['backbones']:
        for name, cost in backbone['rows'].items():
            cells = [f'{backbone["dtype"]}, {name}', _time(cost['train_ms']), cost['train_peak']]
            lines.append(table_row(cells))
    if record['maps']:
        head = ['map', 'module', 'train, ms', 'inference, ms', 'kept, MiB', 'peak, MiB']
        lines += ['', table_row(head), '| --- | --- | ---: | ---: | ---: | ---: |']
    for row in record['maps']:
        name = f'{"x".join(map(str, row["shape"]))}, {row["format"]}, {row["dtype"]}'
        for module, cost in row['rows'].items():
            times = (_time(cost['train_ms']), _time(cost['infer_ms']))
            lines.append(table_row([name, module, *times, cost['kept'], cost['train_peak']]))
            name = ''
    lines += ['', *verdict(record)]
    if 'threshold' in record:
        lines.append(f'memory-efficient pass from {record["threshold"]:,} numbers on in float32')
    if record['left_out']:
        lines.append(f'left out: {"; ".join(record["left_out"])}')
    return '\n'.join([*lines, '', origin_line(record)])


def _time(values: Iterable[float]) -> str:
    median, low, high = values
    return f'{median:.2f} ({low:.2f} to {high:.2f})'


def shape(text: str) -> tuple[int, ...]:
    """Parse '2x256x200x200'."""
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){3}', text) or int(text.split('x')[1]) < 16:
        raise argparse.ArgumentTypeError(f'{text!r} is not a shape; give NxCxHxW with C >= 16')
    return tuple(map(int, text.split('x')))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, help='JSON file for the record')
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--dtypes', nargs='+', default=DTYPES, choices=DTYPES)
    parser.add_argument('--shapes', type=shape, nargs='+', default=modules.SHAPES)
    parser.add_argument('--numbers', type=int, nargs='+', default=threshold.NUMBERS)
    parser.add_argument('--image', type=int, default=800, help='side of the images in pixels')
    parser.add_argument('--rounds', type=int, default=20, help='measurements of each')
    parser.add_argument(
        '--no-compile', dest='compile', action='store_false', help='leave out torch.compile'
    )
    parser.add_argument(
        '--minutes',
        type=float,
        default=9,
        help='time after which no new part starts (default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('torch finds no GPU; give --device cpu to try the script on a CPU')
    warnings.simplefilter('ignore')
    command = shlex.join(['python', '-m', 'benchmarks.gpu', *sys.argv[1:]])
    record: dict | None = None
    with contextlib.suppress(KeyboardInterrupt):  # the record of the finished parts is written
        for measured in measure(args):
            record = write_record(args.out, command, measured)
    if record is None:
        raise InputError(f'--minutes {args.minutes} left no time to measure anything; give 9')
    print(gpu_table(record))


if __name__ == '__main__':
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # hide the log of the profiler
    sys.exit(one_line_errors(main))
