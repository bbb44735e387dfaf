"""Studies: run configs with several seeds, compare them in tables and plots, plan the cost."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

WORK_DIRS = Path('work_dirs/experiments')
EXAMPLES = """examples:
  cbam-det experiment list
  cbam-det experiment run table7 --gpus 8
  cbam-det experiment run table6 --row "ResNet50 + CBAM" --seed 0
  cbam-det experiment commands table6 --gpus 1
  cbam-det experiment table table6
  cbam-det experiment cost bccd
  cbam-det experiment gates bccd
  cbam-det experiment focus voc07
  cbam-det experiment details voc07
  cbam-det experiment plot bccd --out bccd.svg
  cbam-det experiment repeat bccd --row none --seed 0
  cbam-det experiment plan table6 table7 --gpus 8"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    from cbam_det_tools import positive

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--studies',
        type=Path,
        help='folder with the YAML files of studies (default: the shipped ones)',
    )
    parser.add_argument(
        '--results',
        type=Path,
        help='folder for the records (default: results/experiments of the checkout)',
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, text: str, studies: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.add_argument('study', nargs=studies, help='name of the file without .yaml')
        return subparser

    add('list', 'list the rows, and how many of their runs are recorded', '*')
    run_parser = add(
        'run', 'train and test the runs that are not recorded yet; continues interrupted ones', '+'
    )
    repeat_parser = add(
        'repeat', 'train and test recorded runs again, and compare the numbers', '+'
    )
    commands_parser = add(
        'commands', 'print a command for each run that is not recorded yet, one per line', '+'
    )
    for subparser in (run_parser, repeat_parser, commands_parser):
        subparser.add_argument(
            '--row', action='append', help='only this row; can be given several times'
        )
        subparser.add_argument(
            '--seed', type=int, action='append', help='only this seed; can be given several times'
        )
        subparser.add_argument(
            '--gpus',
            type=int,
            default=0,
            help='number of GPUs per run (default: one process)',
        )
    add('table', 'print the scores and verdicts of a study, from its records', '+')
    cost_parser = add('cost', 'time a training step and inference of every row', '+')
    cost_parser.add_argument(
        '--rounds',
        type=positive,
        default=15,
        help='measurements of each row (default: %(default)s)',
    )
    cost_parser.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cpu', help='device (default: %(default)s)'
    )
    gates_parser = add('gates', 'measure the attention weights of the recorded runs', '+')
    gates_parser.add_argument(
        '--count', type=int, default=8, help='number of validation images (default: %(default)s)'
    )
    focus_parser = add(
        'focus',
        "measure the share of Grad-CAM's heat inside objects, compared with the baseline",
        '+',
    )
    focus_parser.add_argument(
        '--count', type=int, default=200, help='number of test images (default: %(default)s)'
    )
    focus_parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='minimum score of a detection (default: %(default)s)',
    )
    for subparser in (run_parser, repeat_parser, commands_parser, gates_parser, focus_parser):
        subparser.add_argument(
            '--data-root', help="folder to read instead of the configs' data_root"
        )
        subparser.add_argument(
            '--work-dirs',
            type=Path,
            default=WORK_DIRS,
            help='folder for checkpoints and logs of the runs (default: %(default)s)',
        )
    add('details', 'compare AP with the baseline by object size and by class', '+')
    plot_parser = add(
        'plot', 'plot the scores of every seed, learning curves, and gain against cost', None
    )
    plot_parser.add_argument(
        '--out', type=Path, required=True, help='file to write, .png, .svg or .jpg'
    )
    plan_parser = add('plan', 'compute steps, hours and memory of the runs from the configs', '+')
    plan_parser.add_argument(
        '--gpus', type=int, default=8, help='number of available GPUs (default: %(default)s)'
    )
    plan_parser.add_argument(
        '--teraflops',
        type=float,
        default=8,
        help='sustained teraflops of one GPU in training (default: %(default)s, about a V100)',
    )
    plan_parser.add_argument('--out', type=Path, help='JSON file for the record')
    args = parser.parse_args(argv)
    if args.command == 'repeat' and not (args.row and args.seed):
        parser.error('repeat trains the runs again; select them with --row and --seed')
    fewest_gpus = 1 if args.command == 'plan' else 0
    if getattr(args, 'gpus', 0) < fewest_gpus:
        parser.error(f'--gpus {args.gpus} is too small; give {fewest_gpus} or more')
    if getattr(args, 'teraflops', 1) <= 0:
        parser.error(f'--teraflops {args.teraflops} must be positive')
    args.study = [args.study] if isinstance(args.study, str) else args.study
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.studies.commands import run_command
    from cbam_det.utils.exits import one_line_errors

    return one_line_errors(lambda: run_command(args))


if __name__ == '__main__':
    sys.exit(main())
