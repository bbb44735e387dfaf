"""What `tools/experiment.py` does: list rows, run them, print tables, plot, plan."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from ..checkpoints.files import read_weights_only
from ..utils.config import is_detector
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.files import try_writing
from ..utils.installation import INSTALLED, shipped_folder, tool_command
from ..utils.records import write_record
from ..utils.split_config import Split
from ..visualization.figures import save
from . import measures, runs, verdicts
from .breakdown import breakdown
from .figure import study_figure
from .plan import plan as plan_run
from .plan import plan_table
from .records import WORK_DIRS, check_records, read_record, records_path
from .study import (
    Row,
    Study,
    check_configs,
    check_gpus,
    command,
    config_of,
    read_study,
    run_name,
)
from .timing import detector_table

STUDIES = shipped_folder('experiments')
# Records are written to the checkout, or to the current folder if the package is installed.
RESULTS = (Path() if INSTALLED else STUDIES.parent) / 'results' / 'experiments'
Runs = list[tuple[Row, int]]


def selected_studies(args: argparse.Namespace) -> list[Study]:
    files = {path.stem: path for path in sorted(args.studies.glob('*.yaml'))}
    if not files:
        raise InputError(
            f'{args.studies} is not a folder with YAML files of studies; give one with --studies'
        )
    for name in args.study:
        if name not in files:
            raise InputError(f'no study {name!r} in {args.studies}; choose from {", ".join(files)}')
    studies = [read_study(files[name]) for name in args.study or files]
    for study in studies:
        check_configs(files[study.name], study)
    return studies


def selected_runs(args: argparse.Namespace, study: Study) -> Runs:
    """The runs that --row and --seed select, seed by seed.

    `repeat` gets all of them, the other commands only those without a record.
    """
    for name in args.row or ():
        if name not in study.rows:
            raise InputError(
                f'{study.name} has no row {name!r}; choose from {", ".join(study.rows)}'
            )
    check_gpus(study, args.gpus or study.gpus or 0)
    rows = [row for row in study.rows.values() if row.name in (args.row or study.rows)]
    all_runs = study.runs(rows)
    seeds = sorted({seed for _, seed in all_runs})
    if unknown := sorted({*(args.seed or ())} - {*seeds}):
        raise InputError(
            f'{study.name} has no seed {first_few(list(map(str, unknown)))} in these rows; '
            f'choose from {", ".join(map(str, seeds))}'
        )
    return [
        (row, seed)
        for row, seed in all_runs
        if seed in (args.seed or seeds)
        if args.command == 'repeat' or read_record(args.results, study, row, seed) is None
    ]


def print_commands(
    args: argparse.Namespace, study: Study, requested: Runs, printed: set[str]
) -> None:
    """Print a command for each run; runs that are already in `printed` are skipped."""
    global_options = {'--studies': (args.studies, STUDIES), '--results': (args.results, RESULTS)}
    own_options = {
        '--data-root': (args.data_root, None),
        '--work-dirs': (args.work_dirs, WORK_DIRS),
    }
    before, after = (
        [
            word
            for key, (value, default) in pairs.items()
            if value != default
            for word in (key, str(value))
        ]
        for pairs in (global_options, own_options)
    )
    if not requested:
        print(f'{study.name}: all runs are recorded', file=sys.stderr)
    for row, seed in requested:
        if (name := run_name(study, row, seed)) not in printed:
            print(command(study, row, seed, args.gpus, before, after))
        printed.add(name)


def check_data_root(args: argparse.Namespace, study: Study, requested: Runs) -> None:
    """Raise InputError if --data-root is given for rows that read different folders."""
    if not args.data_root:
        return
    roots = {
        str(dataset.root)
        for row in {row.name: row for row, _ in requested}.values()
        if (split := Split.from_cfg(config_of(study, row, row.seeds[0]), 'train'))
        for dataset in split.data_sets
    }
    if len(roots) > 1:
        raise InputError(
            f'--data-root {args.data_root} would replace several folders that rows of '
            f'{study.name} read ({", ".join(sorted(roots))}); select rows of one folder with '
            '--row, or put the data into these folders'
        )


def run_requested(args: argparse.Namespace, study: Study, requested: Runs) -> None:
    if not requested:
        print(f'{study.name}: all requested runs are recorded in {args.results}')
    for number, (row, seed) in enumerate(requested, 1):
        progress = f'run {number} of {len(requested)}'
        print(f'{study.name}, {row.name}, seed {seed}: {progress}', flush=True)
        arguments = (study, row, seed, args.results, args.work_dirs, args.gpus, args.data_root)
        if args.command == 'repeat':
            record = read_record(args.results, study, row, seed)
            if record and (difference := runs.environment_differences(record)):
                print(f'  recorded on another system, numbers may differ: {difference}', flush=True)
            differing = runs.repeat(*arguments)
            changes = [f'{key} {before} -> {after}' for key, (before, after) in differing.items()]
            print(
                f'  differs: {first_few(changes, 9)}' if changes else '  all numbers are the same'
            )
            continue
        record = runs.run(*arguments)
        score = verdicts.first_score(study, row, record)
        print(f'  {score}, {record["train_seconds"]} s', flush=True)


def print_plan(args: argparse.Namespace) -> None:
    studies = {}
    for study in selected_studies(args):
        detectors = [row for row in study.rows.values() if is_detector(config_of(study, row, 0))]
        if not detectors:
            raise InputError(f'{study.name} cannot be planned: it has classifiers alone')
        if len(detectors) < len(study.rows):
            print_stderr(f'{study.name}: the classifiers are left out')
        rows = {
            row.name: dict(runs=len(row.seeds), **asdict(plan_run(study, row, args.teraflops)))
            for row in track(detectors, study.name, transient=True)
        }
        studies[study.name] = dict(title=study.title, rows=rows)
    content = dict(gpus=args.gpus, teraflops=args.teraflops, studies=studies)
    command_line = tool_command('experiment', *sys.argv[1:])
    print(plan_table(write_record(args.out, command_line, content)))


def check_results(results: Path, study: Study) -> None:
    """Raise InputError if records of a study cannot be written, before the work for them."""
    path = records_path(results, study)
    try:
        try_writing(results)
        if path.exists():
            path.open('ab').close()
    except OSError as error:
        raise InputError(
            f'--results {results} cannot be written ({error.filename}: {error.strerror}); give a '
            'folder that you can write to'
        ) from None


def print_list(args: argparse.Namespace) -> None:
    table = Table('study', 'row', 'config', 'seeds', 'recorded')
    for study in selected_studies(args):
        for row in study.rows.values():
            recorded_seeds = [
                seed
                for seed in row.seeds
                if read_record(args.results, study, row, seed) is not None
            ]
            table.add_row(
                escape(study.name),
                escape(row.name),
                Path(row.config).stem,
                str(len(row.seeds)),
                str(len(recorded_seeds)),
            )
    Console(width=140).print(table)


def run_command(args: argparse.Namespace) -> None:
    """Run a command of `tools/experiment.py`.

    Raises:
        InputError: a study, row, seed, folder or record is missing.
    """
    args.studies, args.results = args.studies or STUDIES, args.results or RESULTS
    read_weights_only()
    if args.command == 'list':
        print_list(args)
        return
    if args.command == 'plan':
        print_plan(args)
        return
    if (
        args.command in ('table', 'plot', 'gates', 'focus', 'details', 'repeat')
        and not args.results.is_dir()
    ):
        raise InputError(
            f'there is no folder {args.results} with records; give it with --results, or make '
            'records with the command run'
        )
    printed: set[str] = set()
    for study in selected_studies(args):
        requested = (
            selected_runs(args, study) if args.command in ('run', 'repeat', 'commands') else []
        )
        if requested:
            check_data_root(args, study, requested)
        if args.command in ('cost', 'gates', 'focus') or (args.command == 'run' and requested):
            check_results(args.results, study)
        check_records(study, args.results, work_dirs=getattr(args, 'work_dirs', WORK_DIRS))
        if args.command == 'table':
            print(f'{study.title}\n\n{verdicts.table(study, args.results)}\n')
        elif args.command == 'details':
            print(f'{study.title}\n\n{breakdown(study, args.results)}\n')
        elif args.command == 'focus':
            measures.heat_inside(
                study, args.results, args.work_dirs, args.count, args.score, args.data_root
            )
            print(verdicts.heat_table(study, args.results))
        elif args.command == 'plot':
            print(f'picture written to {save(study_figure(study, args.results), args.out)}')
        elif args.command == 'cost':
            print(detector_table(measures.costs(study, args.results, args.rounds, args.device)))
        elif args.command == 'gates':
            measures.gate_weights(study, args.results, args.work_dirs, args.count, args.data_root)
            print(verdicts.table(study, args.results))
        elif args.command == 'commands':
            print_commands(args, study, requested, printed)
        else:
            run_requested(args, study, requested)
