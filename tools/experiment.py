"""The ledger of experiments: list rows, run them with their seeds, render tables and plots."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cbam_det import experiments
from cbam_det.errors import InputError, one_line_errors

ROOT = Path(__file__).parents[1]
EXAMPLES = """examples:
  python tools/experiment.py list
  python tools/experiment.py run table6 --gpus 8
  python tools/experiment.py run table6 --row "ResNet50 + CBAM" --seed 0
  python tools/experiment.py commands table6 --gpus 8
  python tools/experiment.py table table6"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--ledger', type=Path, default=ROOT / 'experiments', help='folder of the studies'
    )
    parser.add_argument(
        '--results',
        type=Path,
        default=ROOT / 'results' / 'experiments',
        help='folder of the records',
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def command(name: str, text: str, studies: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument('study', nargs=studies, help='name of a file of the ledger')
        return made

    command('list', 'rows, runs and what is recorded', '*')
    made = command('run', 'train and test what is not recorded yet; goes on where it stopped', '+')
    made.add_argument('--data-root', help="folder to read instead of the configs' data_root")
    made.add_argument('--work-dirs', type=Path, default=Path('work_dirs/experiments'))
    also = command('commands', 'the commands of the runs that are not recorded, one a line', '+')
    for one in (made, also):
        one.add_argument('--row', action='append', help='only this row; may be given several times')
        one.add_argument('--seed', type=int, action='append', help='only this seed')
        one.add_argument('--gpus', type=int, default=0, help='processes of a run (%(default)s)')
    command('table', 'the table of a study, from its records', '+')
    return parser.parse_args()


def chosen(args: argparse.Namespace) -> list[experiments.Study]:
    files = {path.stem: path for path in sorted(args.ledger.glob('*.yaml'))}
    for name in args.study:
        if name not in files:
            raise InputError(f'no study {name!r} in {args.ledger}; it has {", ".join(files)}')
    return [experiments.read_study(files[name]) for name in args.study or files]


def runs(args: argparse.Namespace, study: experiments.Study) -> list[tuple[experiments.Row, int]]:
    """The rows and seeds that were asked for; of those with a record none."""
    for name in args.row or ():
        if name not in study.rows:
            raise InputError(f'{study.name} has no row {name!r}; it has {", ".join(study.rows)}')
    return [
        (row, seed)
        for row in study.rows.values()
        if not args.row or row.name in args.row
        for seed in args.seed or row.seeds
        if experiments.read_record(args.results, study, row, seed) is None
    ]


def show(args: argparse.Namespace) -> None:
    table = Table('study', 'row', 'config', 'seeds', 'recorded')
    for study in chosen(args):
        for row in study.rows.values():
            done = [
                seed
                for seed in row.seeds
                if experiments.read_record(args.results, study, row, seed) is not None
            ]
            table.add_row(
                *(study.name, row.name, Path(row.config).stem, str(len(row.seeds)), str(len(done)))
            )
    Console(width=140).print(table)


def main() -> None:
    args = parse_args()
    if args.command == 'list':
        show(args)
        return
    for study in chosen(args):
        if args.command == 'table':
            print(f'{study.title}\n\n{experiments.table(study, args.results)}')
            continue
        waiting = runs(args, study)
        if args.command == 'commands':
            for row, seed in waiting:
                print(experiments.command(study, row, seed, args.gpus))
            continue
        for number, (row, seed) in enumerate(waiting, 1):
            print(
                f'{study.name}, {row.name}, seed {seed}: run {number} of {len(waiting)}', flush=True
            )
            record = experiments.run(
                *(study, row, seed, args.results, args.work_dirs, args.gpus, args.data_root)
            )
            first = next(iter(study.metrics))
            value = study.scale * record['metrics'][study.metrics[first]]
            print(f'  {first} {value:.2f}, {record["train_seconds"]} s', flush=True)


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
