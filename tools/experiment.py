"""The ledger of experiments: list rows, run them with their seeds, render tables, plot, plan."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

WORK_DIRS = Path('work_dirs/experiments')
EXAMPLES = """examples:
  python tools/experiment.py list
  python tools/experiment.py run table7 --gpus 8
  python tools/experiment.py run table6 --row "ResNet50 + CBAM" --seed 0
  python tools/experiment.py commands table6 --gpus 1
  python tools/experiment.py table table6
  python tools/experiment.py cost bccd
  python tools/experiment.py gates bccd
  python tools/experiment.py focus voc07
  python tools/experiment.py details voc07
  python tools/experiment.py plot bccd --out bccd.svg
  python tools/experiment.py repeat bccd --row none --seed 0
  python tools/experiment.py plan table6 table7 --gpus 8"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--ledger', type=Path, help='folder of the studies (the shipped ones)')
    parser.add_argument(
        '--results',
        type=Path,
        help='folder of the records (results/experiments, of the checkout where there is one)',
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, text: str, studies: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.add_argument('study', nargs=studies, help='name of a file of the ledger')
        return subparser

    add('list', 'rows, runs and what is recorded', '*')
    run_parser = add(
        'run', 'train and test what is not recorded yet; goes on where it stopped', '+'
    )
    repeat_parser = add(
        'repeat', 'run what is recorded anew, and tell what comes out otherwise', '+'
    )
    commands_parser = add(
        'commands', 'the commands of the runs that are not recorded, one a line', '+'
    )
    for subparser in (run_parser, repeat_parser, commands_parser):
        subparser.add_argument(
            '--data-root', help="folder to read instead of the configs' data_root"
        )
        subparser.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
        subparser.add_argument(
            '--row', action='append', help='only this row; may be given several times'
        )
        subparser.add_argument('--seed', type=int, action='append', help='only this seed; likewise')
        subparser.add_argument(
            '--gpus', type=int, default=0, help='processes of a run, 0 and 1 for one'
        )
    add('table', 'the table of a study, from its records', '+')
    cost_parser = add('cost', 'measure the training step and inference of every row', '+')
    cost_parser.add_argument('--rounds', type=int, default=15, help='of each (%(default)s)')
    cost_parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    gates_parser = add('gates', "the weights of the attention after a study's recorded runs", '+')
    gates_parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS, help='of the runs')
    gates_parser.add_argument(
        '--data-root', help="folder to read instead of the configs' data_root"
    )
    gates_parser.add_argument('--count', type=int, default=8, help='images (%(default)s)')
    focus_parser = add(
        'focus', "the share of Grad-CAM's heat inside objects, beside the baseline", '+'
    )
    focus_parser.add_argument('--work-dirs', type=Path, default=WORK_DIRS, help='of the runs')
    focus_parser.add_argument(
        '--data-root', help="folder to read instead of the configs' data_root"
    )
    focus_parser.add_argument('--count', type=int, default=200, help='test images (%(default)s)')
    focus_parser.add_argument('--score', type=float, default=0.3, help='least score (%(default)s)')
    add('details', 'AP by object size and by class, beside the baseline', '+')
    plot_parser = add(
        'plot', 'every seed, gain against cost and learning curves as a picture', None
    )
    plot_parser.add_argument('--out', type=Path, required=True, help='.png, .svg or .jpg')
    plan_parser = add('plan', 'steps, hours and memory of the runs, counted from the configs', '+')
    plan_parser.add_argument('--gpus', type=int, default=8, help='that there are (%(default)s)')
    plan_parser.add_argument(
        '--teraflops',
        type=float,
        default=8,
        help='that a GPU sustains in training (%(default)s, the order of a V100 in float32)',
    )
    plan_parser.add_argument('--out', type=Path, help='record to write, JSON')
    args = parser.parse_args(argv)
    if args.command == 'repeat' and not (args.row and args.seed):
        parser.error('repeat trains each run anew; name them by --row and --seed')
    fewest_gpus = 1 if args.command == 'plan' else 0
    if getattr(args, 'gpus', 0) < fewest_gpus:
        parser.error(f'--gpus {args.gpus} is too few')
    if getattr(args, 'teraflops', 1) <= 0:
        parser.error(f'--teraflops {args.teraflops} is too few')
    args.study = [args.study] if isinstance(args.study, str) else args.study
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    from cbam_det.studies.commands import run_command
    from cbam_det.utils.errors import one_line_errors

    return one_line_errors(lambda: run_command(args))


if __name__ == '__main__':
    sys.exit(main())
