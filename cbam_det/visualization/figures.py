"""Figures in one style: readable, colour-blind safe (Okabe and Ito); PNG, SVG or JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..errors import InputError

BLUE, ORANGE, GREEN, PINK = '#0072b2', '#d55e00', '#009e73', '#cc79a7'
CYCLE = [BLUE, ORANGE, GREEN, PINK, '#e69f00', '#56b4e9']
STYLE = {
    'font.size': 10,
    'axes.prop_cycle': matplotlib.cycler(color=CYCLE),
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'figure.constrained_layout.use': True,
    'svg.hashsalt': 'cbam_det',
}


@dataclass
class Boxes:
    """Boxes over an image: (n, 4) x1 y1 x2 y2 in pixels, captions and colours, n of each."""

    boxes: np.ndarray
    captions: list[str]
    colours: list[str]


@dataclass
class Run:
    """The log of one training: values by name, as steps and numbers."""

    name: str
    series: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path` (.png, .svg or .jpg), making its folder, and close it.

    Raises:
        InputError: another ending.
    """
    path = check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Date': None} if path.suffix == '.svg' else None
    figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
    return path


def check_ending(path: str | Path) -> Path:
    """`path`, or an InputError where `save` cannot write it."""
    if Path(path).suffix not in ('.png', '.svg', '.jpg'):
        raise InputError(f'{path} is no picture that can be written; end it in .png, .svg or .jpg')
    return Path(path)


def sheet(
    rows: Sequence[Sequence[tuple[np.ndarray, Boxes, str]]],
    legend: dict[str, str] | None = None,
) -> Figure:
    """A grid of images (H, W, 3 uint8 RGB) with boxes and titles; `legend` names colours."""
    columns = max(len(row) for row in rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows), columns, figsize=(2.6 * columns, 2.75 * len(rows) + 0.4), squeeze=False
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for row, row_axes in zip(rows, axes, strict=True):
            for (image, boxes, title), axis in zip(row, row_axes, strict=False):
                axis.imshow(image)
                axis.set_title(title, fontsize=9)
                _draw(axis, boxes)
        if legend:
            marks = [Line2D([], [], color=colour, lw=3) for colour in legend.values()]
            figure.legend(marks, legend, loc='outside lower center', ncols=len(legend))
    return figure


def grid(items: Sequence, columns: int) -> list[list]:
    """`items` in rows of `columns`."""
    return [list(items[at : at + columns]) for at in range(0, len(items), columns)]


def _draw(axis: plt.Axes, boxes: Boxes) -> None:
    for (x1, y1, x2, y2), caption, colour in zip(
        boxes.boxes, boxes.captions, boxes.colours, strict=True
    ):
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.6))
        label = dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85)
        axis.text(x1, y1 - 1, caption, color='white', fontsize=6.5, va='bottom', bbox=label)


def curves(runs: Sequence[Run]) -> Figure:
    """Loss, AP and learning rate against the step, a colour for each run."""
    with plt.rc_context(STYLE):
        figure, (loss, score, rate) = plt.subplots(1, 3, figsize=(11, 3.4), sharex=True)
        for run, colour in zip(runs, CYCLE * math.ceil(len(runs) / len(CYCLE)), strict=False):
            for axis, name, line in (
                (loss, 'loss', '-'),
                (score, 'AP', '-'),
                (score, 'AP50', '--'),
                (rate, 'learning rate', '-'),
            ):
                steps, values = run.series.get(name, ([], []))
                label = run.name if axis is not score else f'{run.name} {name}'
                marker = 'o' if axis is score else None
                axis.plot(steps, values, line, color=colour, label=label, marker=marker, ms=4)
        for axis, title in ((loss, 'training loss'), (score, 'AP'), (rate, 'learning rate')):
            axis.set(title=title, xlabel='step')
        score.set_ylim(0, 1)
        score.legend(fontsize=8)
        if len(runs) > 1:
            loss.legend(fontsize=8)
    return figure


def costs(maps: Sequence[dict]) -> Figure:
    """Milliseconds of training and inference against the size of the feature map.

    Args:
        maps: those of `benchmark.modules`; channels last are left out.
    """
    maps = sorted(
        (one for one in maps if one['format'] == 'contiguous'), key=lambda one: one['map_mib']
    )
    sizes = [one['map_mib'] for one in maps]
    names = list(dict.fromkeys(name for one in maps for name in one['rows']))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True)
        for axis, key, title, copies in (
            (panels[0], 'train_ms', 'forward and backward', 2.5),
            (panels[1], 'infer_ms', 'inference', 1),
        ):
            for number, name in enumerate(names):
                colour = CYCLE[number % len(CYCLE)]
                middle, low, high = zip(*(one['rows'][name][key] for one in maps), strict=True)
                line = '-' if number < len(CYCLE) else '--'
                axis.plot(sizes, middle, line, color=colour, marker='o', ms=4, label=name)
                axis.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
            limit = [copies * one['copy_ms'][0] for one in maps]
            axis.plot(sizes, limit, ':', color='black', label='the bytes alone')
            axis.set(title=title, xlabel='feature map, MiB', xscale='log', yscale='log')
            axis.set_xticks(sizes, [f'{size:.3g}' for size in sizes])
            axis.minorticks_off()
        panels[0].set_ylabel('milliseconds')
        panels[1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
    return figure
