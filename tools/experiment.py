"""The ledger of experiments: list rows, run them with their seeds, render tables, plot, plan."""

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cbam_det.checkpoints.loading import read_weights_only
from cbam_det.datasets.validation.dataset import leaf_datasets
from cbam_det.studies import measures, runs, verdicts
from cbam_det.studies.figure import study_figure
from cbam_det.studies.plan import plan as planned
from cbam_det.studies.records import check_records, read_record
from cbam_det.studies.study import (
    INSTALLED,
    PROGRAM,
    Row,
    Study,
    check_gpus,
    command,
    config_of,
    read_study,
    run_name,
)
from cbam_det.studies.tables import detector_table, plan_table
from cbam_det.utils.environment import shipped
from cbam_det.utils.errors import InputError, one_line_errors, some
from cbam_det.utils.records import write_record
from cbam_det.visualization.figures import save

LEDGER = shipped('ledger', 'experiments')
# Records belong to the checkout, or to the current folder where there is none.
RESULTS = (Path() if INSTALLED else LEDGER.parent) / 'results' / 'experiments'
WORK_DIRS = Path('work_dirs/experiments')
Runs = list[tuple[Row, int]]
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--ledger', type=Path, default=LEDGER, help='folder of the studies')
    parser.add_argument(
        '--results',
        type=Path,
        default=RESULTS,
        help='folder of the records',
    )
    commands = parser.add_subparsers(dest='command', required=True)

    def add(name: str, text: str, studies: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument('study', nargs=studies, help='name of a file of the ledger')
        return made

    add('list', 'rows, runs and what is recorded', '*')
    made = add('run', 'train and test what is not recorded yet; goes on where it stopped', '+')
    again = add('repeat', 'run what is recorded anew, and tell what comes out otherwise', '+')
    also = add('commands', 'the commands of the runs that are not recorded, one a line', '+')
    for one in (made, again, also):
        one.add_argument('--data-root', help="folder to read instead of the configs' data_root")
        one.add_argument('--work-dirs', type=Path, default=WORK_DIRS)
        one.add_argument('--row', action='append', help='only this row; may be given several times')
        one.add_argument('--seed', type=int, action='append', help='only this seed; likewise')
        one.add_argument('--gpus', type=int, default=0, help='processes of a run, 0 and 1 for one')
    add('table', 'the table of a study, from its records', '+')
    timed = add('cost', 'measure the training step and inference of every row', '+')
    timed.add_argument('--rounds', type=int, default=15, help='of each (%(default)s)')
    timed.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    weighed = add('gates', "the weights of the attention after a study's recorded runs", '+')
    weighed.add_argument('--work-dirs', type=Path, default=WORK_DIRS, help='of the runs')
    weighed.add_argument('--data-root', help="folder to read instead of the configs' data_root")
    weighed.add_argument('--count', type=int, default=8, help='images (%(default)s)')
    heated = add('focus', "the share of Grad-CAM's heat inside objects, beside the baseline", '+')
    heated.add_argument('--work-dirs', type=Path, default=WORK_DIRS, help='of the runs')
    heated.add_argument('--data-root', help="folder to read instead of the configs' data_root")
    heated.add_argument('--count', type=int, default=200, help='test images (%(default)s)')
    heated.add_argument('--score', type=float, default=0.3, help='least score (%(default)s)')
    add('details', 'AP by object size and by class, beside the baseline', '+')
    drawn = add('plot', 'every seed, gain against cost and learning curves as a picture', None)
    drawn.add_argument('--out', type=Path, required=True, help='.png, .svg or .jpg')
    counted = add('plan', 'steps, hours and memory of the runs, counted from the configs', '+')
    counted.add_argument('--gpus', type=int, default=8, help='that there are (%(default)s)')
    counted.add_argument(
        '--teraflops',
        type=float,
        default=8,
        help='that a GPU sustains in training (%(default)s, the order of a V100 in float32)',
    )
    counted.add_argument('--out', type=Path, help='record to write, JSON')
    args = parser.parse_args()
    if args.command == 'repeat' and not (args.row and args.seed):
        parser.error('repeat trains each run anew; name them by --row and --seed')
    if getattr(args, 'gpus', 0) < (args.command == 'plan'):
        parser.error(f'--gpus {args.gpus} is too few')
    if getattr(args, 'teraflops', 1) <= 0:
        parser.error(f'--teraflops {args.teraflops} is too few')
    args.study = [args.study] if isinstance(args.study, str) else args.study
    return args


def chosen(args: argparse.Namespace) -> list[Study]:
    files = {path.stem: path for path in sorted(args.ledger.glob('*.yaml'))}
    for name in args.study:
        if name not in files:
            raise InputError(
                f'no study {name!r} in {args.ledger}; it has {", ".join(files) or "none"}'
            )
    return [read_study(files[name]) for name in args.study or files]


def chosen_runs(args: argparse.Namespace, study: Study) -> Runs:
    """The rows and seeds that were asked for; all to be repeated, else those without a record."""
    for name in args.row or ():
        if name not in study.rows:
            raise InputError(f'{study.name} has no row {name!r}; it has {", ".join(study.rows)}')
    check_gpus(study, args.gpus or study.gpus or 0)
    rows = [row for row in study.rows.values() if not args.row or row.name in args.row]
    seeds = sorted({seed for row in rows for seed in row.seeds})
    if unknown := sorted({*(args.seed or ())} - {*seeds}):
        raise InputError(
            f'{study.name} has no seed {some(list(map(str, unknown)))} there; it has '
            f'{", ".join(map(str, seeds))}'
        )
    # Seed by seed, so that what is done at any time can be compared in pairs.
    return [
        (row, seed)
        for seed in seeds
        for row in rows
        if seed in row.seeds and (not args.seed or seed in args.seed)
        if args.command == 'repeat' or read_record(args.results, study, row, seed) is None
    ]


def commands(args: argparse.Namespace, study: Study, asked: Runs, seen: set[str]) -> None:
    """Print the commands, each run once though several tables have it."""
    before = {'--ledger': (args.ledger, LEDGER), '--results': (args.results, RESULTS)}
    after = {'--data-root': (args.data_root, None), '--work-dirs': (args.work_dirs, WORK_DIRS)}
    kept = [
        [
            word
            for key, (given, usual) in pairs.items()
            if given != usual
            for word in (key, str(given))
        ]
        for pairs in (before, after)
    ]
    if not asked:
        print(f'{study.name}: nothing is left to run', file=sys.stderr)
    for row, seed in asked:
        if (name := run_name(study, row, seed)) not in seen:
            print(command(study, row, seed, args.gpus, *kept))
        seen.add(name)


def check_data_root(args: argparse.Namespace, study: Study, asked: Runs) -> None:
    """Raise InputError where one --data-root would be for rows that read different data."""
    if not args.data_root:
        return
    roots = {
        leaf.get('data_root') or ''
        for row in {row.name: row for row, _ in asked}.values()
        for leaf in leaf_datasets(config_of(study, row, row.seeds[0]).train_dataloader.dataset)
    }
    if len(roots) > 1:
        raise InputError(
            f'--data-root {args.data_root} cannot replace {", ".join(sorted(roots))}, which rows '
            f'of {study.name} read; run those of one alone by --row, or put the data there'
        )


def run(args: argparse.Namespace, study: Study, asked: Runs) -> None:
    if not asked:
        print(f'{study.name}: what was asked for is recorded in {args.results}')
    for number, (row, seed) in enumerate(asked, 1):
        print(f'{study.name}, {row.name}, seed {seed}: run {number} of {len(asked)}', flush=True)
        what = (study, row, seed, args.results, args.work_dirs, args.gpus, args.data_root)
        if args.command == 'repeat':
            record = read_record(args.results, study, row, seed)
            if record and (other := runs.elsewhere(record)):
                print(f'  recorded elsewhere, so that numbers may differ: {other}', flush=True)
            other = runs.repeat(*what)
            said = [f'{key} {old} -> {new}' for key, (old, new) in other.items()]
            print(f'  differs: {some(said, 9)}' if said else '  all numbers are the same')
            continue
        record = runs.run(*what)
        first, key = next(iter(study.metrics_of(row).items()))
        value = study.scale_of(row) * record['metrics'][key]
        print(f'  {first} {value:.2f}, {record["train_seconds"]} s', flush=True)


def plan(args: argparse.Namespace) -> None:
    studies = {}
    for study in chosen(args):
        rows = {
            row.name: dict(runs=len(row.seeds), **asdict(planned(study, row, args.teraflops)))
            for row in track(study.rows.values(), study.name, transient=True)
        }
        studies[study.name] = dict(title=study.title, rows=rows)
    made = dict(gpus=args.gpus, teraflops=args.teraflops, studies=studies)
    said = shlex.join(['python', *PROGRAM, *sys.argv[1:]])
    print(plan_table(write_record(args.out, said, made)))


def show(args: argparse.Namespace) -> None:
    table = Table('study', 'row', 'config', 'seeds', 'recorded')
    for study in chosen(args):
        for row in study.rows.values():
            done = [
                seed
                for seed in row.seeds
                if read_record(args.results, study, row, seed) is not None
            ]
            table.add_row(
                *(study.name, row.name, Path(row.config).stem, str(len(row.seeds)), str(len(done)))
            )
    Console(width=140).print(table)


def main() -> None:
    args = parse_args()
    read_weights_only()
    if args.command == 'list':
        show(args)
        return
    if args.command == 'plan':
        plan(args)
        return
    if (
        args.command in ('table', 'plot', 'gates', 'focus', 'details', 'repeat')
        and not args.results.is_dir()
    ):
        raise InputError(f'no folder of records {args.results}; run makes it, --results names it')
    printed: set[str] = set()
    for study in chosen(args):
        asked = chosen_runs(args, study) if args.command in ('run', 'repeat', 'commands') else []
        if asked:
            check_data_root(args, study, asked)
        check_records(study, args.results)
        if args.command == 'table':
            print(f'{study.title}\n\n{verdicts.table(study, args.results)}\n')
        elif args.command == 'details':
            print(f'{study.title}\n\n{verdicts.breakdown(study, args.results)}\n')
        elif args.command == 'focus':
            what = (args.work_dirs, args.count, args.score, args.data_root)
            measures.heat_inside(study, args.results, *what)
            print(verdicts.heat_table(study, args.results))
        elif args.command == 'plot':
            print(save(study_figure(study, args.results), args.out))
        elif args.command == 'cost':
            print(detector_table(measures.costs(study, args.results, args.rounds, args.device)))
        elif args.command == 'gates':
            what = (study, args.results, args.work_dirs, args.count, args.data_root)
            measures.gate_weights(*what)
            print(verdicts.table(study, args.results))
        elif args.command == 'commands':
            commands(args, study, asked, printed)
        else:
            run(args, study, asked)


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
