"""The ledger of experiments: list rows, run them with their seeds, render tables, plot, plan."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cbam_det import experiments
from cbam_det.errors import InputError, one_line_errors, some

ROOT = Path(__file__).parents[1]
EXAMPLES = """examples:
  python tools/experiment.py list
  python tools/experiment.py run table7 --gpus 8
  python tools/experiment.py run table6 --row "ResNet50 + CBAM" --seed 0
  python tools/experiment.py commands table6 --gpus 1
  python tools/experiment.py table table6
  python tools/experiment.py cost bccd
  python tools/experiment.py plot bccd --out bccd.svg
  python tools/experiment.py repeat bccd --row none --seed 0
  python tools/experiment.py plan table6 table7 --gpus 8"""


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
    again = command('repeat', 'run what is recorded anew, and tell what comes out otherwise', '+')
    for one in (made, again):
        one.add_argument('--data-root', help="folder to read instead of the configs' data_root")
        one.add_argument('--work-dirs', type=Path, default=Path('work_dirs/experiments'))
    also = command('commands', 'the commands of the runs that are not recorded, one a line', '+')
    for one in (made, again, also):
        one.add_argument('--row', action='append', help='only this row; may be given several times')
        one.add_argument('--seed', type=int, action='append', help='only this seed')
        one.add_argument('--gpus', type=int, default=0, help='processes of a run (%(default)s)')
    command('table', 'the table of a study, from its records', '+')
    timed = command('cost', 'measure the training step and inference of every row', '+')
    timed.add_argument('--rounds', type=int, default=15, help='of each (%(default)s)')
    timed.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    drawn = command('plot', 'every seed, gain against cost and learning curves as a picture', None)
    drawn.add_argument('--out', type=Path, required=True, help='.png, .svg or .jpg')
    planned = command('plan', 'steps, hours and memory of the runs, counted from the configs', '+')
    planned.add_argument('--gpus', type=int, default=8, help='that there are (%(default)s)')
    planned.add_argument(
        '--teraflops',
        type=float,
        default=8,
        help='that a GPU sustains in training (%(default)s, the order of a V100 in float32)',
    )
    args = parser.parse_args()
    args.study = [args.study] if isinstance(args.study, str) else args.study
    return args


def chosen(args: argparse.Namespace) -> list[experiments.Study]:
    files = {path.stem: path for path in sorted(args.ledger.glob('*.yaml'))}
    for name in args.study:
        if name not in files:
            raise InputError(f'no study {name!r} in {args.ledger}; it has {", ".join(files)}')
    return [experiments.read_study(files[name]) for name in args.study or files]


def runs(args: argparse.Namespace, study: experiments.Study) -> list[tuple[experiments.Row, int]]:
    """The rows and seeds that were asked for: without a record, or with one to be repeated."""
    for name in args.row or ():
        if name not in study.rows:
            raise InputError(f'{study.name} has no row {name!r}; it has {", ".join(study.rows)}')
    return [
        (row, seed)
        for row in study.rows.values()
        if not args.row or row.name in args.row
        for seed in args.seed or row.seeds
        if (experiments.read_record(args.results, study, row, seed) is not None)
        == (args.command == 'repeat')
    ]


def run(args: argparse.Namespace, study: experiments.Study) -> None:
    chosen_runs = runs(args, study)
    for number, (row, seed) in enumerate(chosen_runs, 1):
        print(
            f'{study.name}, {row.name}, seed {seed}: run {number} of {len(chosen_runs)}', flush=True
        )
        what = (study, row, seed, args.results, args.work_dirs, args.gpus, args.data_root)
        if args.command == 'repeat':
            other = experiments.repeat(*what)
            said = [f'{key} {old} -> {new}' for key, (old, new) in other.items()]
            print(f'  differs: {some(said, 9)}' if said else '  all numbers are the same')
            continue
        record = experiments.run(*what)
        first = next(iter(study.metrics))
        value = study.scale * record['metrics'][study.metrics[first]]
        print(f'  {first} {value:.2f}, {record["train_seconds"]} s', flush=True)


def plan(args: argparse.Namespace, study: experiments.Study) -> None:
    from cbam_det.plan import plan as planned

    table = Table(
        *('row', 'runs', 'GPUs', 'steps', 'images', 'multiply-adds, 1e9', 'hours', 'maps, GiB'),
        title=f'{study.title}: a run at {args.teraflops:g} teraflops, maps of a GPU',
    )
    hours = 0.0
    for row in track(study.rows.values(), study.name, transient=True):
        cost = planned(study, row, args.teraflops)
        hours += len(row.seeds) * cost.hours * cost.gpus
        table.add_row(
            *(row.name, str(len(row.seeds)), str(cost.gpus), f'{cost.steps:,}', f'{cost.images:,}'),
            *(f'{cost.multiply_adds / 1e9:.1f}', f'{cost.hours:.1f}', f'{cost.kept:.1f}'),
        )
    console = Console(width=120)
    console.print(table)
    console.print(f'about {hours / args.gpus:.0f} hours for all runs on {args.gpus} GPUs')
    print(f'python tools/experiment.py commands {study.name} --gpus {study.gpus}')


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
        elif args.command == 'plot':
            from cbam_det.visualization.figures import save
            from cbam_det.visualization.study import study_figure

            print(save(study_figure(study, args.results), args.out))
        elif args.command == 'cost':
            from cbam_det.results import detector_table

            print(detector_table(experiments.costs(study, args.results, args.rounds, args.device)))
        elif args.command == 'plan':
            plan(args, study)
        elif args.command == 'commands':
            for row, seed in runs(args, study):
                print(experiments.command(study, row, seed, args.gpus))
        else:
            run(args, study)


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
