"""Write configs/README.md, a table of all configs with parameters and multiply-adds."""

import argparse
import ast
import sys
from pathlib import Path

from mmengine.config import Config
from rich.progress import track

from benchmarks.pages import write_or_check
from cbam_det.models.costs import Cost, count_costs
from cbam_det.utils.exits import one_line_errors

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
HEAD = """# The configs

All configs, written by `python -m benchmarks.configs`. GFLOPs are multiply-adds of convolutions
and linear layers (as in the paper) for one test image of the given size; two-stage detectors are
counted with the maximum number of regions. Parameters of the model and of its attention are in
millions.

| config | base | input | CBAMs | parameters | attention | GFLOPs |
| --- | --- | --- | ---: | ---: | ---: | ---: |
"""


def first_base(config: Path) -> str:
    """The first entry of `_base_` in a config file."""
    code = ast.parse(config.read_text(encoding='utf-8'))
    bases = next(ast.literal_eval(node.value) for node in code.body if isinstance(node, ast.Assign))
    return (bases if isinstance(bases, str) else bases[0]).removeprefix('./')


def row(config: Path, cost: Cost) -> str:
    millions = f'{cost.parameters / 1e6:.3f} | {cost.attention / 1e6:.3f}'
    height, width = cost.size
    return (
        f'| [{config.stem}]({config.name}) | `{first_base(config)}` | {width}x{height} '
        f'| {cost.cbams} | {millions} | {cost.multiply_adds / 1e9:.2f} |\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.configs --check'
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if the file differs'
    )
    args = parser.parse_args()
    configs = sorted(CONFIGS.glob('*.py'))
    rows = [
        row(config, count_costs(Config.fromfile(config)))
        for config in track(configs, 'counting', transient=True)
    ]
    text, file = HEAD + ''.join(rows), CONFIGS / 'README.md'
    write_or_check(file, text, args.check, 'the configs', 'benchmarks.configs')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
