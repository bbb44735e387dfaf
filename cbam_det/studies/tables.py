"""Markdown tables of measured times and of plans."""

from __future__ import annotations

from ..utils.records import origin_line, table_head, table_row


def detector_table(record: dict) -> str:
    """The table of `tools/experiment.py cost`; the first row is the baseline."""
    rows = table_head(['detector', 'train step, ms', 'inference, ms', 'train peak, MiB'])
    base = next(iter(record['rows'].values()))
    for name, cost in record['rows'].items():
        cells = []
        for key in ('train_ms', 'infer_ms'):
            median, low, high = cost[key]
            change = '' if cost is base else f', {100 * (median / base[key][0] - 1):+.1f}%'
            cells.append(f'{median:.0f} ({low:.0f} to {high:.0f}){change}')
        rows.append(table_row([name, *cells, f'{cost["train_peak"]:.0f}']))
    height, width = record['size']
    images = (
        f'{height}x{width} pixels, {record["batch"]} images per training step, 1 in inference; '
    )
    return '\n'.join([*rows, '', images + origin_line(record)])


def plan_table(record: dict) -> str:
    """The table of `tools/experiment.py plan`."""
    lines = []
    for study in record['studies'].values():
        numbers = ['runs', 'GPUs', 'steps', 'images', 'GFLOPs (multiply-adds)', 'hours']
        lines += table_head([study['title'], *numbers, 'feature maps, GiB'])
        for name, row in study['rows'].items():
            counts = (f'{row[key]:,}' for key in ('runs', 'gpus', 'steps', 'images'))
            multiply_adds = f'{row["multiply_adds"] / 1e9:.1f}'
            lines.append(
                table_row(
                    [name, *counts, multiply_adds, f'{row["hours"]:.1f}', f'{row["kept"]:.1f}']
                )
            )
        rows = study['rows'].values()
        hours = sum(row['runs'] * row['gpus'] * row['hours'] for row in rows) / record['gpus']
        lines += ['', f'about {hours:.0f} hours for all runs on {record["gpus"]} GPUs', '']
    origin = (
        f'Hours of one run at {record["teraflops"]:g} teraflops per GPU; feature maps on one GPU '
        'in float32; '
    )
    return '\n'.join([*lines, f'{origin}`{record["command"]}`'])
