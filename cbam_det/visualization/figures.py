"""Figures in one style: readable, colour-blind safe (Okabe and Ito); PNG, SVG or JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..utils.errors import InputError
from .fonts import every_glyph

matplotlib.use('Agg')

BLUE, ORANGE, GREEN, PINK = '#0072b2', '#d55e00', '#009e73', '#cc79a7'

HEAT = 'inferno'

CYCLE = [BLUE, ORANGE, GREEN, PINK, '#e69f00', '#56b4e9']

STYLE: dict[Any, Any] = {
    'font.size': 10,
    'text.parse_math': False,  # a dollar sign in a name is no formula
    'axes.prop_cycle': cycler(color=CYCLE),
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'figure.constrained_layout.use': True,
}


@dataclass
class Boxes:
    """Boxes over an image: (n, 4) x1 y1 x2 y2 in pixels, captions and colours, n of each."""

    boxes: np.ndarray
    captions: list[str]
    colours: list[str]


class Cell(NamedTuple):
    """A picture of a sheet: (H, W, 3) uint8 RGB with boxes, and (H, W) from 0 to 1 laid over it."""

    picture: np.ndarray
    boxes: Boxes
    title: str
    heat: np.ndarray | None = None


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path` (.png, .svg or .jpg), making its folder, and close it.

    The same figure makes the same file.

    Raises:
        InputError: another ending.
    """
    path = check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Date': None} if path.suffix == '.svg' else None
    with plt.rc_context({'svg.hashsalt': 'cbam_det'}), every_glyph(figure):
        figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
    return path


def pixels(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8 RGB of `figure`, which is closed."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # the backend above
    with every_glyph(figure):
        canvas.draw()
    picture = np.array(canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    return np.ascontiguousarray(picture)


def check_ending(path: str | Path) -> Path:
    """`path`, or an InputError where `save` cannot write it."""
    if Path(path).suffix not in ('.png', '.svg', '.jpg'):
        raise InputError(f'{path} is no picture that can be written; end it in .png, .svg or .jpg')
    return Path(path)


def sheet(
    rows: Sequence[Sequence[Cell]],
    legend: dict[str, str] | None = None,
    heat: str | None = None,
) -> Figure:
    """A grid of pictures; `legend` names colours of boxes, `heat` what is laid over."""
    columns = max(len(row) for row in rows)
    cells = [cell for row in rows for cell in row]
    ratio = max(cell.picture.shape[0] / cell.picture.shape[1] for cell in cells)
    lines = max(cell.title.count('\n') for cell in cells) + 1
    height = 2.45 * min(ratio, 1.6) + 0.15 * lines + 0.15  # inches of a row
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows),
            columns,
            figsize=(2.6 * columns, len(rows) * height + (0.9 if heat else 0.4)),
            squeeze=False,
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for row, row_axes in zip(rows, axes, strict=True):
            for cell, axis in zip(row, row_axes, strict=False):
                axis.imshow(cell.picture)
                if cell.heat is not None:
                    draw_heat(axis, cell.heat)
                axis.set_title(cell.title, fontsize=9)
                _draw(axis, cell.boxes)
        if legend:
            marks = [Line2D([], [], color=colour, lw=3) for colour in legend.values()]
            figure.legend(marks, legend, loc='outside lower center', ncols=len(legend))
        if heat:
            _heat_bar(figure, axes, heat, shrink=0.9)
    return figure


def draw_heat(axis: plt.Axes, heat: np.ndarray) -> None:
    """Heat, (H, W) from 0 to 1, over the picture of the same size that `axis` shows."""
    axis.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.25 + 0.55 * np.clip(heat, 0, 1))


def _heat_bar(figure: Figure, axes: np.ndarray, text: str, shrink: float) -> None:
    colours = ScalarMappable(Normalize(0, 1), HEAT)
    bar = figure.colorbar(
        colours, ax=axes, pad=0.01, label=text, location='bottom', shrink=shrink, aspect=40
    )
    bar.outline.set_visible(False)


@dataclass
class GateRow:
    """The weights of one CBAM as `attention_sheet` shows them.

    Attributes:
        name: short name of the block.
        stage: the blocks that share a panel of channel weights.
        channel: (C,), or None.
        spatial: (H, W) over the picture, or of a region where `over_image` is False; or None.
        over_image: the spatial weights belong over the picture.
        maximum: upper end of the weights' range, 1 or 2.
    """

    name: str
    stage: str
    channel: np.ndarray | None
    spatial: np.ndarray | None
    over_image: bool
    maximum: int


def attention_sheet(picture: np.ndarray, rows: Sequence[GateRow], title: str = 'image') -> Figure:
    """The picture and the spatial weights over it, each from its own lowest to its highest, which
    the title gives; below, for each stage, the channel weights sorted and as a histogram.

    Weights that differ by less than 0.001 in a block are not drawn.
    """
    maps = [(row, row.spatial) for row in rows if row.spatial is not None]
    stages = list(dict.fromkeys(row.stage for row in rows if row.channel is not None))
    columns = min(6, max(len(maps) + 1, 3))
    lines = math.ceil((len(maps) + 1) / columns) if maps else 0
    ratio = picture.shape[0] / picture.shape[1]
    height = 2.1 * min(max(ratio, 0.5), 1.6) + 0.45
    with plt.rc_context(STYLE):
        upper = lines * height + 0.7 if maps else 0
        lower = 4.6 if stages else 0
        width = 2.15 * columns if columns > len(stages) else 3 * len(stages)
        figure = plt.figure(figsize=(width, upper + lower))
        heights = [part for part in (upper, lower) if part]
        parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
        if maps:
            axes = parts.pop(0).subplots(lines, columns, squeeze=False)
            for axis in axes.flat:
                axis.set_axis_off()
            axes.flat[0].imshow(picture)
            axes.flat[0].set_title(title, fontsize=8)
            for axis, (row, weights) in zip(list(axes.flat)[1:], maps, strict=False):
                _spatial_panel(axis, picture, row, weights)
            text = 'spatial weight, lowest to highest of the block'
            _heat_bar(axes.flat[0].figure, axes, text, shrink=0.6)
        if stages:
            axes = parts[0].subplots(2, len(stages), squeeze=False, sharex='row')
            maximum = max(row.maximum for row in rows)
            for (curve, histogram), stage in zip(axes.T, stages, strict=True):
                stage_rows = [
                    (row, row.channel)
                    for row in rows
                    if row.stage == stage and row.channel is not None
                ]
                _channel_panels(curve, histogram, stage_rows, maximum)
                curve.set_title(stage, fontsize=9)
            axes[0, 0].set_ylabel('channel weight')
            axes[1, 0].set_ylabel('channels, share')
    return figure


def _spatial_panel(axis: plt.Axes, picture: np.ndarray, row: GateRow, weights: np.ndarray) -> None:
    low, high = float(weights.min()), float(weights.max())
    uniform = high - low < 1e-3
    heat = np.zeros_like(weights) if uniform else (weights - low) / (high - low)
    if row.over_image:
        axis.imshow(picture)
        if not uniform:
            draw_heat(axis, heat)
    else:
        axis.imshow(heat, cmap=HEAT, vmin=0, vmax=1)
    suffix = '' if row.over_image else ', mean of regions'
    span = f'{low:.3f} everywhere' if uniform else f'{low:.3f} to {high:.3f}'
    axis.set_title(f'{row.name}{suffix}\n{span}', fontsize=7.5)


def _channel_panels(
    curve: plt.Axes, histogram: plt.Axes, rows: Sequence[tuple[GateRow, np.ndarray]], maximum: int
) -> None:
    shades = plt.get_cmap('viridis')(np.linspace(0, 0.85, len(rows)))
    bins = np.linspace(0, maximum, 42).tolist()  # one in the middle, where a gate changes nothing
    for (row, weights), shade in zip(rows, shades, strict=True):
        positions = np.linspace(0, 1, len(weights))
        curve.plot(positions, np.sort(weights)[::-1], color=shade, lw=1.2, label=row.name)
        share = np.full(len(weights), 1 / len(weights))
        histogram.hist(weights, bins, weights=share, histtype='step', color=shade, lw=1.2)
    curve.axhline(rows[0][0].maximum / 2, color='black', lw=0.6, ls=':')
    curve.set(ylim=(0, maximum), xlabel='channels, sorted')
    histogram.set(xlim=(0, maximum), xlabel='channel weight')
    if len(rows) <= 8:
        curve.legend(fontsize=6)


def grid(items: Sequence, columns: int) -> list[list]:
    """`items` in rows of `columns`."""
    return [list(items[start : start + columns]) for start in range(0, len(items), columns)]


def _draw(axis: plt.Axes, boxes: Boxes) -> None:
    for (x1, y1, x2, y2), caption, colour in zip(
        boxes.boxes, boxes.captions, boxes.colours, strict=True
    ):
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.6))
        label = dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85)
        if caption:
            axis.text(x1, y1 - 1, caption, color='white', fontsize=6.5, va='bottom', bbox=label)


def costs(maps: Sequence[dict]) -> Figure:
    """Milliseconds of training and inference against the size of the feature map.

    Args:
        maps: those of `benchmark.modules`; channels last are left out.
    """
    maps = sorted(
        (record for record in maps if record['format'] == 'contiguous'),
        key=lambda record: record['map_mib'],
    )
    sizes = [record['map_mib'] for record in maps]
    names = list(dict.fromkeys(name for record in maps for name in record['rows']))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True)
        for axis, key, title, copies in (
            (panels[0], 'train_ms', 'forward and backward', 2.5),
            (panels[1], 'infer_ms', 'inference', 1),
        ):
            for number, name in enumerate(names):
                colour = CYCLE[number % len(CYCLE)]
                middle, low, high = zip(
                    *(record['rows'][name][key] for record in maps), strict=True
                )
                line = '-' if number < len(CYCLE) else '--'
                axis.plot(sizes, middle, line, color=colour, marker='o', ms=4, label=name)
                axis.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0)
            limit = [copies * record['copy_ms'][0] for record in maps]
            axis.plot(sizes, limit, ':_', color='black', label='the bytes alone')
            axis.set(title=title, xlabel='feature map, MiB', xscale='log', yscale='log')
            axis.set_xticks(sizes, [f'{size:.3g}' for size in sizes])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter('{x:g}')  # powers would be formulas
        panels[0].set_ylabel('milliseconds')
        panels[1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
    return figure


class Precision(NamedTuple):
    """A panel of `precisions`: by model (2, 101), precision at IoU 0.5 and 0.75 by recall."""

    title: str
    lines: dict[str, np.ndarray]


def precisions(panels: Sequence[Precision], left_out: int = 0) -> Figure:
    """Precision against recall; the means over recalls, AP50 / AP75, stand in each panel."""
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    recall = np.linspace(0, 1, 101)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(3.3 * columns, 3 * lines + 0.6), squeeze=False
        )
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes.flat, panels, strict=False):
            for number, values in enumerate(panel.lines.values()):
                colour = CYCLE[number % len(CYCLE)]
                axis.plot(recall, values[0], color=colour)
                axis.plot(recall, values[1], '--', color=colour)
                text = f'{values[0].mean():.3f} / {values[1].mean():.3f}'
                axis.text(
                    x=0.03,
                    y=0.04 + 0.09 * number,
                    s=text,
                    color=colour,
                    fontsize=8,
                    transform=axis.transAxes,
                )
            axis.set(xlim=(0, 1), ylim=(0, 1.02), title=panel.title)
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ['0', '', '0.5', '', '1'])
        for axis in axes[-1]:
            axis.set_xlabel('recall')
        for axis in axes[:, 0]:
            axis.set_ylabel('precision')
        marks = {
            name: Line2D([], [], color=CYCLE[number % len(CYCLE)])
            for number, name in enumerate(panels[0].lines)
        }
        marks['AP50 (COCO), IoU 0.5'] = Line2D([], [], color='black')
        marks['AP75 (COCO), IoU 0.75'] = Line2D([], [], color='black', ls='--')
        figure.legend(marks.values(), marks, loc='outside lower center', ncols=len(marks))
        if left_out:
            figure.suptitle(f'{left_out} classes with fewer objects are not shown', fontsize=9)
    return figure
