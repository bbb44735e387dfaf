"""Run logs and records -> series and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .environment import describe
from .errors import InputError
from .saving import whole_file
from .visualization.figures import Run

# Names in MMEngine's scalars.json -> names in figures.
SERIES = {
    'loss': 'loss',
    'lr': 'learning rate',
    'coco/bbox_mAP': 'AP',
    'coco/bbox_mAP_50': 'AP50',
    'pascal_voc/AP50': 'AP50',
}


def read_run(work_dir: str | Path) -> Run:
    """The log of a training from its work_dir; parts resumed later replace earlier steps.

    Raises:
        InputError: no training was logged there.
    """
    if Path(work_dir).is_file():
        raise InputError(f'{work_dir} is a file; give the work_dir that it lies in')
    values: dict[str, dict[int, float]] = {}
    for row in log_lines(work_dir):
        for name, label in SERIES.items():
            if name in row and 'step' in row:
                values.setdefault(label, {})[_step(row, values)] = row[name]
    if 'loss' not in values:
        raise InputError(f'{work_dir} holds no log of a training; give the work_dir of a run')
    series = {
        label: tuple(map(list, zip(*sorted(points.items()), strict=True)))
        for label, points in values.items()
    }
    return Run(Path(work_dir).name, series)


def log_lines(work_dir: str | Path) -> Iterator[dict]:
    """What the runs of a work_dir logged, from the first run to the last."""
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in log.read_text(encoding='utf-8').splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the line that an interrupted run did not finish


def _step(row: dict, values: dict[str, dict[int, float]]) -> int:
    """Evaluations of an epoch-based run count epochs: put them at the last training step."""
    if 'iter' in row or 'loss' in row:
        return row['step']
    return max(values.get('loss', {row['step']: 0}))


def demo_table(record: dict) -> str:
    """The README's rows for a `metrics.json` of the digits' detector."""
    numbers = {key.removeprefix('coco/'): value for key, value in record['metrics'].items()}
    classes = [key for key in numbers if key.endswith('_precision')]
    head = ['AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AR100']
    keys = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'AR@100']
    where = record['environment']
    return '\n'.join(
        [
            table_row(head),
            table_row(['---:'] * len(head)),
            table_row(f'{numbers[f"bbox_{key}"]:.3f}' for key in keys),
            '',
            table_row(key.removesuffix('_precision') for key in classes),
            table_row(['---:'] * len(classes)),
            table_row(f'{numbers[key]:.3f}' for key in classes),
            '',
            f'{record["config"]}, seed {record["seed"]}, one run; {where["hardware"]}; '
            + ', '.join(f'{name} {where[name]}' for name in ('torch', 'mmengine', 'mmcv', 'mmdet')),
        ]
    )


def sweep_table(record: dict) -> str:
    """The README's rows for a record of `tools/sweep.py`."""
    rows = [table_row(['family', 'after', 'CBAMs', 'built', 'refused'])]
    rows.append(table_row(['---', '---', '---:', '---:', '---:']))
    for family, counts in record['families'].items():
        pattern = ', '.join(f'`{one}`' for one in counts['pattern'] or ())
        cbams = ' to '.join(map(str, dict.fromkeys(counts['cbams'] or ())))
        rows.append(table_row([family, pattern, cbams, counts['built'], counts['refused']]))
    totals = record['totals']
    rows += [
        '',
        f'{totals["configs"]} configs of mmdet {record["environment"]["mmdet"]}: '
        f'{totals["built"]} built, {totals["refused"]} refused',
    ]
    if record['reasons']:
        rows += ['', table_row(['refused, since', 'configs']), table_row(['---', '---:'])]
    rows += [table_row([reason, len(names)]) for reason, names in record['reasons'].items()]
    return '\n'.join(rows)


def module_table(record: dict) -> str:
    """The README's rows for `tools/benchmark.py module`: ms, and MiB beyond a step's maps.

    The times' factor is to the limit, what the bytes cost alone: a copy into fresh memory forward,
    two and a half with the backward pass (it reads the input and the output's gradient, and writes
    the input's).
    """
    rows = [
        table_row(
            ['map', 'module', 'train ms', 'infer ms', 'kept MiB', 'train peak', 'infer peak']
        ),
        table_row(['---', '---', '---:', '---:', '---:', '---:', '---:']),
    ]
    for one in record['maps']:
        name = _map(one)
        copy = one['copy_ms'][0]
        limit = dict(train_ms=2.5 * copy, infer_ms=copy)
        for module, cost in one['rows'].items():
            times = (
                f'{median:.1f} ({low:.1f} to {high:.1f}), {median / limit[key]:.1f}x'
                for key, (median, low, high) in ((key, cost[key]) for key in limit)
            )
            memory = (f'{cost[key]:.1f}' for key in ('kept', 'train_peak', 'infer_peak'))
            rows.append(table_row([name, module, *times, *memory]))
            name = ''
        limits = (f'{value:.1f}' if value >= 1 else f'{value:.2g}' for value in limit.values())
        rows.append(table_row(['', '*limit*', *limits, *[''] * 3]))
    return '\n'.join([*rows, '', _where(record)])


def ratio_table(record: dict) -> str:
    """The README's rows for how many times ours the others take, training / inference."""
    peers = list(dict.fromkeys(name for one in record['maps'] for name in one['rows']))[1:]
    rows = [table_row(['map', *peers]), table_row(['---', *['---:'] * len(peers)])]
    for one in record['maps']:
        ours = one['rows']['cbam_det']
        cells = (
            ' / '.join(f'{cost[key][0] / ours[key][0]:.1f}x' for key in ('train_ms', 'infer_ms'))
            for cost in (one['rows'][name] for name in peers)
        )
        rows.append(table_row([_map(one), *cells]))
    return '\n'.join([*rows, '', _where(record)])


def _map(one: dict) -> str:
    return f'{"x".join(map(str, one["shape"]))}, {one["format"].replace("_", " ")}'


def detector_table(record: dict) -> str:
    """The README's rows for `tools/benchmark.py detector`; the first row is the baseline."""
    rows = [
        table_row(['detector', 'train step, ms', 'inference, ms', 'train peak, MiB']),
        table_row(['---', '---:', '---:', '---:']),
    ]
    base = next(iter(record['rows'].values()))
    for name, cost in record['rows'].items():
        cells = []
        for key in ('train_ms', 'infer_ms'):
            median, low, high = cost[key]
            more = '' if cost is base else f', {100 * (median / base[key][0] - 1):+.1f}%'
            cells.append(f'{median:.0f} ({low:.0f} to {high:.0f}){more}')
        rows.append(table_row([name, *cells, f'{cost["train_peak"]:.0f}']))
    height, width = record['size']
    images = f'{height}x{width} pixels, {record["batch"]} images a step, 1 in inference; '
    return '\n'.join([*rows, '', images + _where(record)])


def counts_table(record: dict) -> str:
    """The README's rows for `tools/benchmark.py counts`: ours, and the paper's if they differ."""
    rows = [
        table_row(['backbone', 'parameters', 'SE', 'CBAM', 'multiply-adds', 'SE', 'CBAM']),
        table_row(['---', *['---:'] * 6]),
    ]
    for name, kinds in record['rows'].items():
        cells = []
        for number, form in ((0, '.2f'), (1, '.3f')):
            for kind in kinds.values():
                ours, paper = kind['ours'][number], kind['paper'][number]
                cells.append(f'{ours:{form}}' + f' ({paper:{form}})' * (ours != paper))
        rows.append(table_row([name, *cells]))
    return '\n'.join(
        [*rows, '', "millions; thousands of millions; in brackets the paper's, if it differs"]
    )


def precision_table(record: dict) -> str:
    """The README's rows for `tools/benchmark.py precision`."""
    parts = ['output', 'input', 'parameters']
    rows = [
        table_row(['type', 'output', "input's gradient", "parameters' gradient"]),
        table_row(['---', '---:', '---:', '---:']),
        *(
            table_row([kind, *(f'{e[part]:.1e}' for part in parts)])
            for kind, e in record['rows'].items()
        ),
    ]
    return '\n'.join([*rows, '', _where(record)])


def evaluation_table(record: dict) -> str:
    """The README's rows for `tools/benchmark.py evaluation`."""
    rows = [
        table_row(
            ['images', 'objects', 'detections', 'pycocotools', 'faster-coco-eval', 'difference']
        ),
        table_row(['---:'] * 6),
        table_row(
            [
                *(f'{record[key]:,}' for key in ('images', 'truths', 'detections')),
                *(f'{record[key]:.1f} s' for key in ('pycocotools_s', 'faster_coco_eval_s')),
                f'{record["largest_difference"]:.0e}',
            ]
        ),
    ]
    return '\n'.join([*rows, '', _where(record)])


def _where(record: dict) -> str:
    where = record['environment']
    return f'`{record["command"]}`; {where["hardware"]}, torch {where["torch"]}'


def here() -> dict[str, object]:
    """The versions, the hardware and the threads of this process, as records have them."""
    import torch

    return dict(describe(), threads=torch.get_num_threads())


def write_record(path: Path | None, command: str, record: dict) -> dict:
    """`record` after the command, the versions and the hardware; written to `path`, if any."""
    record = dict(command=command, environment=here(), **record)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    return record


def focus_table(record: dict) -> str:
    """The README's rows for `tools/visualize.py focus`: mean and standard deviation over images;
    for all models but the first the mean difference to it and its 95% interval.
    """
    head = ['model', 'heat inside the object', 'more', 'peak inside the object', 'more']
    rows = [table_row(head), table_row(['---', *['---:'] * 4])]
    for name, row in record['rows'].items():
        cells = []
        for kind in ('energy', 'pointing'):
            cells.append('{:.1%} ± {:.1%}'.format(*row[kind]))
            more = row.get(f'{kind}_more')
            form = '{:+.1%} ({:+.1%} to {:+.1%})' if more and more[1] is not None else '{:+.1%}'
            cells.append(form.format(*more) if more else '')
        rows.append(table_row([name, *cells]))
    even = f'{record["chance"]:.1%}'
    rows.append(table_row(['*heat spread evenly*', even, '', even, '']))
    said = (
        f'{record["objects"]} objects of {record["images"]} images, which all of these find '
        f'with a score of {record["score"]:g} or more ({record["left_out"]} left out), '
        f'{record["method"]} at '
        + ', '.join(f'{name} ({number})' for name, number in record['layers'].items())
    )
    return '\n'.join([*rows, '', f'{said}; {_where(record)}'])


def plan_table(record: dict) -> str:
    """The README's rows for `tools/experiment.py plan`."""
    lines = []
    for study in record['studies'].values():
        head = ['runs', 'GPUs', 'steps', 'images', 'multiply-adds, 1e9', 'hours', 'maps, GiB']
        lines += [table_row([study['title'], *head]), table_row(['---', *['---:'] * len(head)])]
        for name, row in study['rows'].items():
            counted = (f'{row[key]:,}' for key in ('runs', 'gpus', 'steps', 'images'))
            adds = f'{row["multiply_adds"] / 1e9:.1f}'
            lines.append(
                table_row([name, *counted, adds, f'{row["hours"]:.1f}', f'{row["kept"]:.1f}'])
            )
        rows = study['rows'].values()
        hours = sum(row['runs'] * row['gpus'] * row['hours'] for row in rows) / record['gpus']
        lines += ['', f'about {hours:.0f} hours for all runs on {record["gpus"]} GPUs', '']
    said = f'hours of a run at {record["teraflops"]:g} teraflops a GPU; maps of a GPU, float32; '
    return '\n'.join([*lines, f'{said}`{record["command"]}`'])


def fuzz_table(record: dict) -> str:
    """The README's rows for `python -m tests.fuzz`."""
    head = ['what was damaged', 'refused in one line', 'read, and counted', 'read']
    rows = [table_row(head), table_row(['---', *['---:'] * 3])]
    for part, outcomes in record['outcomes'].items():
        counts = (f'{outcomes.get(key, 0):,}' for key in ('refused', 'counted', 'clean'))
        rows.append(table_row([part, *counts]))
    said = f'{len(record["failures"])} of {record["inputs"]:,} did otherwise'
    return '\n'.join([*rows, '', f'{said}; {_where(record)}'])


TABLES = {
    'demo': demo_table,
    'demo_amp': demo_table,
    'fuzz': fuzz_table,
    'focus': focus_table,
    'focus_bccd': focus_table,
    'plan': plan_table,
    'sweep': sweep_table,
    'benchmark_module': module_table,
    'benchmark_module ratios': ratio_table,
    'benchmark_detector': detector_table,
    'benchmark_amp': detector_table,
    'benchmark_counts': counts_table,
    'benchmark_precision': precision_table,
    'benchmark_evaluation': evaluation_table,
}


def fill_tables(text: str, folder: Path) -> str:
    """`text` with each `<!-- results: NAME -->` block filled from `folder`/NAME.json.

    A second word, `<!-- results: NAME WHAT -->`, chooses another table of the same record.
    `<!-- study: NAME -->` is filled with the table of a study of the ledger, `experiments/` beside
    `folder`, from its records in `folder`/experiments; with a second word `details` or `heat` with
    its AP by size and class, or Grad-CAM's heat.

    Raises:
        InputError: a record or a study is missing.
    """
    # They build on this file.
    from .experiments.study import read_study
    from .experiments.verdicts import breakdown, heat_table, table

    kinds = {None: table, ' details': breakdown, ' heat': heat_table}

    def block(match: re.Match) -> str:
        path = folder / f'{match[1]}.json'
        if not path.is_file():
            raise InputError(f'no record {path}; run the command that makes it, or drop the block')
        name = match[1] + (match[2] or '')
        rows = TABLES[name](json.loads(path.read_text(encoding='utf-8')))
        return f'<!-- results: {name} -->\n{rows}\n<!-- end -->'

    def study(match: re.Match) -> str:
        found = read_study(folder.parent / 'experiments' / f'{match[1]}.yaml')
        rows = kinds[match[2]](found, folder / 'experiments')
        return f'<!-- study: {match[1]}{match[2] or ""} -->\n{rows}\n<!-- end -->'

    for form, fill in (
        (r'<!-- results: (\w+)( \w+)? -->', block),
        (r'<!-- study: (\w+)( details| heat)? -->', study),
    ):
        text = re.sub(form + r'\n.*?<!-- end -->', fill, text, flags=re.DOTALL)
    return text


def table_row(cells: Iterable[object]) -> str:
    """Cells as a row of a Markdown table."""
    return f'| {" | ".join(map(str, cells))} |'
