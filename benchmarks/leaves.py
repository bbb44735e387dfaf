"""Write configs/README.md: every leaf with its parameters and multiply-adds; or check it."""

import argparse
import ast
import sys
from pathlib import Path

from mmengine.config import Config
from rich.progress import track

from benchmarks.pages import write_or_check
from cbam_det.models.costs import Cost, count_costs
from cbam_det.utils.errors import one_line_errors

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
HEAD = """# The configs

Every leaf, by `python -m benchmarks.leaves`. GFLOPs are multiply-adds of convolutions and linear
layers (as the paper counts them) for one test image of the size given, in a two-stage detector with
all regions that the RPN may pass on. Parameters are in millions, and so are those of the attention.

| leaf | over | input | CBAMs | parameters | attention | GFLOPs |
| --- | --- | --- | ---: | ---: | ---: | ---: |
"""


def first_base(leaf: Path) -> str:
    """What a leaf names first in `_base_`."""
    code = ast.parse(leaf.read_text(encoding='utf-8'))
    bases = next(ast.literal_eval(node.value) for node in code.body if isinstance(node, ast.Assign))
    return (bases if isinstance(bases, str) else bases[0]).removeprefix('./')


def row(leaf: Path, cost: Cost) -> str:
    millions = f'{cost.parameters / 1e6:.3f} | {cost.attention / 1e6:.3f}'
    height, width = cost.size
    return (
        f'| [{leaf.stem}]({leaf.name}) | `{first_base(leaf)}` | {width}x{height} | {cost.cbams} '
        f'| {millions} | {cost.multiply_adds / 1e9:.2f} |\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.leaves --check'
    )
    parser.add_argument('--check', action='store_true', help='write nothing; fail on a difference')
    args = parser.parse_args()
    leaves = sorted(CONFIGS.glob('*.py'))
    rows = [
        row(leaf, count_costs(Config.fromfile(leaf)))
        for leaf in track(leaves, 'counting', transient=True)
    ]
    text, file = HEAD + ''.join(rows), CONFIGS / 'README.md'
    write_or_check(file, text, args.check, 'the configs', 'benchmarks.leaves')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
