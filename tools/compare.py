"""Train a detector with and without attention on your data, with several seeds, and compare."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  cbam-det compare my_project
  cbam-det compare my_project --seeds 5
  cbam-det compare my_project --fast

DIR is a project of `cbam-det init`: data.py, baseline.py, cbam.py and study.yaml. Runs, records and
report.html are written there. A repeated command trains only what is not recorded yet."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', metavar='DIR', type=Path, help='folder of the project')
    parser.add_argument(
        '--seeds', type=int, help='trainings of each detector (default: as many as in study.yaml)'
    )
    parser.add_argument(
        '--fast',
        action='store_true',
        help='train a few steps in DIR/fast, to see that everything runs; the scores mean nothing',
    )
    args = parser.parse_args(argv)
    if args.seeds is not None and args.seeds < 1:
        parser.error(f'--seeds {args.seeds} is less than 1')
    if args.seeds and args.fast:
        parser.error('--fast takes one seed; leave out --seeds')
    return args


def run(args: argparse.Namespace) -> None:
    from cbam_det.studies.compare import compare_project

    compare_project(args.folder, args.seeds, args.fast)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det_tools import hide_gpus_without_operators

    hide_gpus_without_operators()
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
