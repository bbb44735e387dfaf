"""Fill the tables of README.md and docs/ from the records in results/, or check that they match."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks.pages import write_or_check
from cbam_det.studies.study import read_study
from cbam_det.studies.tables import detector_table, plan_table
from cbam_det.studies.verdicts import breakdown, heat_table, summary, table
from cbam_det.utils.errors import InputError, one_line_errors
from cbam_det.utils.records import origin_line, table_row
from cbam_det.visualization.focus import focus_table


def demo_table(record: dict) -> str:
    """Rows for a `metrics.json` of the digits' detector."""
    numbers = {key.removeprefix('coco/'): value for key, value in record['metrics'].items()}
    classes = [key for key in numbers if key.endswith('_precision')]
    head = ['AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AR100']
    keys = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'AR@100']
    environment = record['environment']
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
            f'{record["config"]}, seed {record["seed"]}, one run; {environment["hardware"]}; '
            + ', '.join(
                f'{name} {environment[name]}' for name in ('torch', 'mmengine', 'mmcv', 'mmdet')
            ),
        ]
    )


def sweep_table(record: dict) -> str:
    """Rows for a record of `python -m benchmarks.sweep`."""
    rows = [table_row(['family', 'after', 'CBAMs', 'built', 'refused'])]
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
        f'{totals["built"]} built, {totals["refused"]} refused',
    ]
    if record['reasons']:
        rows += ['', table_row(['refused, since', 'configs']), table_row(['---', '---:'])]
    rows += [table_row([reason, len(names)]) for reason, names in record['reasons'].items()]
    return '\n'.join(rows)


def module_table(record: dict) -> str:
    """Rows for `python -m benchmarks.speed module`: ms, and MiB beyond a step's maps.

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
        rows.append(table_row(['', '*limit*', *limits, *[''] * 3]))
    return '\n'.join([*rows, '', origin_line(record)])


def ratio_table(record: dict) -> str:
    """Rows for how many times ours the others take, training / inference."""
    peers = list(
        dict.fromkeys(name for feature_map in record['maps'] for name in feature_map['rows'])
    )[1:]
    rows = [table_row(['map', *peers]), table_row(['---', *['---:'] * len(peers)])]
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
    """Rows for `benchmarks.speed counts`: ours, and the paper's if they differ."""
    rows = [
        table_row(['backbone', 'parameters', 'SE', 'CBAM', 'multiply-adds', 'SE', 'CBAM']),
        table_row(['---', *['---:'] * 6]),
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
        [*rows, '', "millions; thousands of millions; in brackets the paper's, if it differs"]
    )


def precision_table(record: dict) -> str:
    """Rows for `python -m benchmarks.speed precision`."""
    parts = ['output', 'input', 'parameters']
    rows = [
        table_row(['type', 'output', "input's gradient", "parameters' gradient"]),
        table_row(['---', '---:', '---:', '---:']),
        *(
            table_row([kind, *(f'{errors[part]:.1e}' for part in parts)])
            for kind, errors in record['rows'].items()
        ),
    ]
    return '\n'.join([*rows, '', origin_line(record)])


def evaluation_table(record: dict) -> str:
    """Rows for `python -m benchmarks.speed evaluation`."""
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
    return '\n'.join([*rows, '', origin_line(record)])


def fuzz_table(record: dict) -> str:
    """Rows for `python -m tests.fuzz`."""
    head = ['what was damaged', 'refused in one line', 'read, and counted', 'read']
    rows = [table_row(head), table_row(['---', *['---:'] * 3])]
    for part, outcomes in record['outcomes'].items():
        counts = (f'{outcomes.get(key, 0):,}' for key in ('refused', 'counted', 'clean'))
        rows.append(table_row([part, *counts]))
    outcome = f'{len(record["failures"])} of {record["inputs"]:,} did otherwise'
    return '\n'.join([*rows, '', f'{outcome}; {origin_line(record)}'])


def timm_table(record: dict) -> str:
    """Rows for a record of `python -m benchmarks.attentions`."""
    hosts = list(next(iter(record['reasons'].values())))
    rows = [table_row(['name', *hosts, 'timm says']), table_row(['---'] * (2 + len(hosts)))]
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
    'focus': focus_table,
    'focus_bccd': focus_table,
    'plan': plan_table,
    'sweep': sweep_table,
    'timm_attentions': timm_table,
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
    `folder`, from its records in `folder`/experiments; with a second word `details`, `heat`
    or `summary` with its AP by size and class, Grad-CAM's heat, or its measure alone.

    Raises:
        InputError: a record or a study is missing.
    """
    kinds = {None: table, ' details': breakdown, ' heat': heat_table, ' summary': summary}

    def fill_record(match: re.Match) -> str:
        path = folder / f'{match[1]}.json'
        if not path.is_file():
            raise InputError(f'no record {path}; run the command that makes it, or drop the block')
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
    parser.add_argument('--check', action='store_true', help='write nothing; fail on a difference')
    args = parser.parse_args()
    if not (ROOT / 'README.md').is_file():
        raise InputError(f'{ROOT} is no checkout of cbam_det, whose tables these are')
    for page in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*/*.md'))):
        text = page.read_text(encoding='utf-8')
        filled = fill_tables(text, ROOT / 'results')
        write_or_check(page, filled, args.check, 'results/', 'benchmarks.tables')


if __name__ == '__main__':
    sys.exit(one_line_errors(main))
