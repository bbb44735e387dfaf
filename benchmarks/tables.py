"""Fill the tables of README.md and docs/ from the records in results/, or check that they match."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path

from benchmarks.pages import write_or_check
from benchmarks.threshold import loss
from cbam_det.studies.breakdown import breakdown
from cbam_det.studies.plan import plan_table
from cbam_det.studies.study import read_study
from cbam_det.studies.timing import detector_table
from cbam_det.studies.verdicts import heat_table, summary, table
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import one_line_errors
from cbam_det.utils.records import origin_line, table_head, table_row
from cbam_det.visualization.focus import focus_table


def demo_table(record: dict) -> str:
    """The table of a `metrics.json` of the detector for the digits; empty cells for null."""
    numbers = {
        key.removeprefix('coco/'): '' if value is None else f'{value:.3f}'
        for key, value in record['metrics'].items()
    }
    classes = [key for key in numbers if key.endswith('_precision')]
    head = ['AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AR100']
    keys = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'AR@100']
    environment = record['environment']
    return '\n'.join(
        [
            table_row(head),
            table_row(['---:'] * len(head)),
            table_row(numbers[f'bbox_{key}'] for key in keys),
            '',
            table_row(key.removesuffix('_precision') for key in classes),
            table_row(['---:'] * len(classes)),
            table_row(numbers[key] for key in classes),
            '',
            f'{record["config"]}, seed {record["seed"]}, one run; {environment["hardware"]}; '
            + ', '.join(
                f'{name} {environment[name]}' for name in ('torch', 'mmengine', 'mmcv', 'mmdet')
            ),
        ]
    )


def sweep_table(record: dict) -> str:
    """The table of `python -m benchmarks.sweep`."""
    rows = [table_row(['backbone', 'places (after)', 'CBAMs', 'built', 'failed'])]
    rows.append(table_row(['---', '---', '---:', '---:', '---:']))
    for family, counts in record['families'].items():
        alternatives = [
            [name] if isinstance(name, str) else name for name in counts['pattern'] or ()
        ]
        pattern = ', '.join(
            ' or '.join(f'`{name}`' for name in patterns) for patterns in alternatives
        )
        cbams = ' to '.join(map(str, dict.fromkeys(counts['cbams'] or ())))
        rows.append(table_row([family, pattern, cbams, counts['built'], counts['refused']]))
    totals = record['totals']
    rows += [
        '',
        f'{totals["configs"]} configs of mmdet {record["environment"]["mmdet"]}: '
        f'{totals["built"]} built, {totals["refused"]} failed',
    ]
    if record['reasons']:
        rows += ['', *table_head(['reason of failure', 'configs'])]
    rows += [table_row([reason, len(names)]) for reason, names in record['reasons'].items()]
    return '\n'.join(rows)


def module_table(record: dict) -> str:
    """The table of `python -m benchmarks.speed module`, in ms and MiB.

    Times are also given as multiples of a lower limit, the time to move the data: one copy of the
    map into new memory in inference, and two and a half copies in a training step, which also reads
    the input and the output's gradient and writes the input's gradient.
    """
    rows = [
        table_row(
            [
                *('feature map', 'module', 'training, ms', 'inference, ms'),
                *('kept, MiB', 'training peak, MiB', 'inference peak, MiB'),
            ]
        ),
        table_row(['---', '---', '---:', '---:', '---:', '---:', '---:']),
    ]
    for feature_map in record['maps']:
        name = _map(feature_map)
        copy = feature_map['copy_ms'][0]
        limit = dict(train_ms=2.5 * copy, infer_ms=copy)
        for module, cost in feature_map['rows'].items():
            times = (
                f'{median:.1f} ({low:.1f} to {high:.1f}), {median / limit[key]:.1f}x'
                for key, (median, low, high) in ((key, cost[key]) for key in limit)
            )
            memory = (f'{cost[key]:.1f}' for key in ('kept', 'train_peak', 'infer_peak'))
            rows.append(table_row([name, module, *times, *memory]))
            name = ''
        limits = (f'{value:.1f}' if value >= 1 else f'{value:.2g}' for value in limit.values())
        rows.append(table_row(['', '*lower limit*', *limits, *[''] * 3]))
    return '\n'.join([*rows, '', origin_line(record)])


def threshold_table(record: dict) -> str:
    """The table of `python -m benchmarks.speed threshold`: autograd's time over ours, by size."""
    by_size: dict[int, list[float]] = {}
    for row in record['maps']:
        ratio = row['autograd'][0] / row['memory_efficient'][0]
        by_size.setdefault(math.prod(row['shape']), []).append(ratio)
    head = ['elements of the map', 'time, autograd / memory-efficient']
    rows = [table_row(head), '| ---: | ---: |']
    rows += [
        table_row([f'{size:,}', f'{min(ratios):.2f}x to {max(ratios):.2f}x'])
        for size, ratios in sorted(by_size.items())
    ]
    lost = loss(record['maps'], record['small'])
    rows += [
        '',
        f'The best limit is {record["limit"]:,} elements: with it, training takes '
        f'{100 * record["loss"]:.1f}% longer than with the faster pass of each map; with the limit '
        f'of that time, {record["small"]:,}, it took {100 * lost:.1f}% longer.',
    ]
    return '\n'.join([*rows, '', origin_line(record)])


def compile_table(record: dict) -> str:
    """The table of `python -m benchmarks.speed compile`: the first step and the later ones."""
    rows = [table_row(['backbone', 'first step, s', 'later steps, s']), '| --- | ---: | ---: |']
    for name, times in record['rows'].items():
        rows.append(table_row([name, f'{times["first"]:.1f}', f'{times["later"]:.2f}']))
    height, width = record['size']
    return '\n'.join([*rows, '', f'{height}x{width} pixels, two images; {origin_line(record)}'])


def ratio_table(record: dict) -> str:
    """The times of the other modules as multiples of ours, training / inference."""
    peers = list(
        dict.fromkeys(name for feature_map in record['maps'] for name in feature_map['rows'])
    )[1:]
    rows = table_head(['feature map', *peers])
    for feature_map in record['maps']:
        ours = feature_map['rows']['cbam_det']
        cells = (
            ' / '.join(f'{cost[key][0] / ours[key][0]:.1f}x' for key in ('train_ms', 'infer_ms'))
            for cost in (feature_map['rows'][name] for name in peers)
        )
        rows.append(table_row([_map(feature_map), *cells]))
    return '\n'.join([*rows, '', origin_line(record)])


def _map(feature_map: dict) -> str:
    return f'{"x".join(map(str, feature_map["shape"]))}, {feature_map["format"].replace("_", " ")}'


def counts_table(record: dict) -> str:
    """The table of `benchmarks.speed counts`, with the paper's numbers where they differ."""
    rows = [
        *table_head(
            [
                'backbone',
                'parameters',
                'with SE',
                'with CBAM',
                'multiply-adds',
                'with SE',
                'with CBAM',
            ]
        ),
    ]
    for name, kinds in record['rows'].items():
        cells = []
        for number, form in ((0, '.2f'), (1, '.3f')):
            for kind in kinds.values():
                ours, paper = kind['ours'][number], kind['paper'][number]
                published = f' ({paper:{form}})' if ours != paper else ''
                cells.append(f'{ours:{form}}{published}')
        rows.append(table_row([name, *cells]))
    return '\n'.join(
        [
            *rows,
            '',
            "Parameters in millions, multiply-adds in 1e9; in brackets the paper's, if different",
        ]
    )


def precision_table(record: dict) -> str:
    """The table of `python -m benchmarks.speed precision`."""
    parts = ['output', 'input', 'parameters']
    rows = [
        *table_head(['dtype', 'output', 'gradient of the input', 'gradient of the parameters']),
        *(
            table_row([kind, *(f'{errors[part]:.1e}' for part in parts)])
            for kind, errors in record['rows'].items()
        ),
    ]
    return '\n'.join([*rows, '', origin_line(record)])


def evaluation_table(record: dict) -> str:
    """The table of `python -m benchmarks.speed evaluation`."""
    rows = [
        table_row(
            [
                'images',
                'objects',
                'detections',
                'pycocotools',
                'faster-coco-eval',
                'largest difference',
            ]
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
    return '\n'.join([*rows, '', origin_line(record)])


def fuzz_table(record: dict) -> str:
    """The table of `python -m tests.fuzz`."""
    head = [
        'damaged',
        'refused with one line',
        'read, with faults reported',
        'read, without faults',
    ]
    rows = table_head(head)
    for part, outcomes in record['outcomes'].items():
        counts = (f'{outcomes.get(key, 0):,}' for key in ('refused', 'counted', 'clean'))
        rows.append(table_row([part, *counts]))
    outcome = f'{len(record["failures"])} of {record["inputs"]:,} inputs failed otherwise'
    return '\n'.join([*rows, '', f'{outcome}; {origin_line(record)}'])


def config_fuzz_table(record: dict) -> str:
    """The table of `python -m tests.fuzz_configs`."""
    head = ['changed config', 'refused, with the key', 'refused, without the key', 'began']
    rows = table_head(head)
    for name, outcomes in record['outcomes'].items():
        keys = ('refused with its key', 'refused', 'begun')
        rows.append(table_row([f'`{name}`', *(f'{outcomes.get(key, 0):,}' for key in keys)]))
    outcome = f'{len(record["failures"])} of {record["inputs"]:,} inputs failed otherwise'
    return '\n'.join([*rows, '', f'{outcome}; {origin_line(record)}'])


def timm_table(record: dict) -> str:
    """The table of `python -m benchmarks.attentions`."""
    models = list(next(iter(record['reasons'].values())))
    head = ['attention', *models, 'reason']
    rows = [table_row(head), table_row(['---'] * len(head))]
    for name, reasons in record['reasons'].items():
        cells = ['no' if reason else 'yes' for reason in reasons.values()]
        reason = '; '.join(dict.fromkeys(filter(None, reasons.values())))
        rows.append(table_row([f'`{name}`', *cells, reason]))
    return '\n'.join([*rows, '', origin_line(record)])


ROOT = Path(__file__).resolve().parents[1]
TABLES = {
    'demo': demo_table,
    'demo_amp': demo_table,
    'fuzz': fuzz_table,
    'fuzz_configs': config_fuzz_table,
    'focus': focus_table,
    'focus_bccd': focus_table,
    'plan': plan_table,
    'sweep': sweep_table,
    'timm_attentions': timm_table,
    'benchmark_module': module_table,
    'benchmark_module ratios': ratio_table,
    'benchmark_module_intel ratios': ratio_table,
    'benchmark_threshold': threshold_table,
    'benchmark_threshold_avx2': threshold_table,
    'benchmark_detector': detector_table,
    'benchmark_amp': detector_table,
    'benchmark_demo': detector_table,
    'benchmark_tiny_imagenet': detector_table,
    'benchmark_compiled_detector': detector_table,
    'benchmark_compile': compile_table,
    'benchmark_counts': counts_table,
    'benchmark_precision': precision_table,
    'benchmark_evaluation': evaluation_table,
}


def fill_tables(text: str, folder: Path) -> str:
    """Fill the tables in a Markdown page.

    `<!-- results: NAME -->` gets the table of the record `folder`/NAME.json, and
    `<!-- results: NAME WORD -->` another table of the same record. `<!-- study: NAME -->` gets the
    table of a study in `experiments/` (next to `folder`), from its records in `folder`/experiments.
    A second word selects AP by size and class (`details`), Grad-CAM's heat (`heat`) or the first
    metric alone (`summary`).

    Args:
        text: the page.
        folder: folder of the records, `results/`.

    Returns:
        The page with all tables filled.

    Raises:
        InputError: a record or a study is missing.
    """
    kinds = {None: table, ' details': breakdown, ' heat': heat_table, ' summary': summary}

    def fill_record(match: re.Match) -> str:
        path = folder / f'{match[1]}.json'
        if not path.is_file():
            raise InputError(
                f'there is no record {path}; run the command that makes it, or remove the block'
            )
        name = match[1] + (match[2] or '')
        rows = TABLES[name](json.loads(path.read_text(encoding='utf-8')))
        return f'<!-- results: {name} -->\n{rows}\n<!-- end -->'

    def fill_study(match: re.Match) -> str:
        study = read_study(folder.parent / 'experiments' / f'{match[1]}.yaml')
        rows = kinds[match[2]](study, folder / 'experiments')
        return f'<!-- study: {match[1]}{match[2] or ""} -->\n{rows}\n<!-- end -->'

    for pattern, fill in (
        (r'<!-- results: (\w+)( \w+)? -->', fill_record),
        (r'<!-- study: (\w+)( details| heat| summary)? -->', fill_study),
    ):
        text = re.sub(pattern + r'\n.*?<!-- end -->', fill, text, flags=re.DOTALL)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='example: python -m benchmarks.tables --check'
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing; fail if a page differs'
    )
    args = parser.parse_args()
    if not (ROOT / 'README.md').is_file():
        raise InputError(f'{ROOT} is not a checkout of cbam_det; run this command in one')
    for page in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*/*.md'))):
        text = page.read_text(encoding='utf-8')
        filled = fill_tables(text, ROOT / 'results')
        write_or_check(page, filled, args.check, 'results/', 'benchmarks.tables')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
