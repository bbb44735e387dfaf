"""Figures in a common style with colours for the colour-blind (Okabe and Ito)."""

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
from ..utils.files import atomic_write
from .fonts import every_glyph

matplotlib.use('Agg')

BLUE, ORANGE, GREEN, PINK = '#0072b2', '#d55e00', '#009e73', '#cc79a7'
MISSED = PINK  # boxes of missed objects, which are drawn dashed

HEAT = 'inferno'
UNIFORM = 1e-3  # attention weights that differ by less are drawn as uniform
MIN_RANGE = 0.1  # of attention weights on a colour scale, so that tiny differences stay dark

CYCLE = [BLUE, ORANGE, GREEN, PINK, '#e69f00', '#56b4e9']

STYLE: dict[Any, Any] = {
    'font.size': 10,
    'text.parse_math': False,  # names can contain dollar signs
    'axes.prop_cycle': cycler(color=CYCLE),
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.3,
    'figure.constrained_layout.use': True,
}


@dataclass
class Boxes:
    """Boxes in an image: (n, 4) as x1, y1, x2, y2 in pixels, with n captions and colours."""

    boxes: np.ndarray
    captions: list[str]
    colours: list[str]


class Cell(NamedTuple):
    """A picture on a sheet: (H, W, 3) uint8 RGB, its boxes, and a heatmap (H, W) from 0 to 1."""

    picture: np.ndarray
    boxes: Boxes
    title: str
    heat: np.ndarray | None = None


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path` (.png, .svg or .jpg) and close it; missing folders are made.

    Equal figures give identical files.

    Raises:
        InputError: the path has another ending.
    """
    path = check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Date': None} if path.suffix == '.svg' else None
    salt = plt.rc_context({'svg.hashsalt': 'cbam_det'})
    with salt, every_glyph(figure), atomic_write(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=110, metadata=metadata)
    plt.close(figure)
    return path


def pixels(figure: Figure) -> np.ndarray:
    """Draw `figure` as (H, W, 3) uint8 RGB, and close it."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # as matplotlib.use('Agg') sets it
    with every_glyph(figure):
        canvas.draw()
    picture = np.array(canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    return np.ascontiguousarray(picture)


def check_ending(path: str | Path) -> Path:
    """`path` as a Path; InputError if `save` cannot write this format."""
    if Path(path).suffix not in ('.png', '.svg', '.jpg'):
        raise InputError(f'{path}: pictures are written as .png, .svg or .jpg; end the name in one')
    return Path(path)


def sheet(
    rows: Sequence[Sequence[Cell]],
    legend: dict[str, str] | None = None,
    heat: str | None = None,
) -> Figure:
    """A grid of pictures; `legend` explains the colours of boxes, `heat` the heatmaps."""
    columns = max(len(row) for row in rows)
    cells = [cell for row in rows for cell in row]
    lines = max(cell.title.count('\n') for cell in cells) + 1
    heights = []  # of the rows, in inches
    for row in rows:
        ratio = max(cell.picture.shape[0] / cell.picture.shape[1] for cell in row)
        heights.append(2.6 * min(ratio, 1.6) + 0.15 * lines + 0.15)
    legend_columns = min(columns, len(legend or ()))
    legend_height = 0.25 * math.ceil(len(legend or ()) / max(legend_columns, 1))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(rows),
            columns,
            figsize=(2.6 * columns, sum(heights) + legend_height + (0.9 if heat else 0.15)),
            height_ratios=heights,
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
                _draw(axis, cell.boxes, *cell.picture.shape[:2])
        if legend:
            marks = [
                Line2D([], [], color=colour, lw=3, ls='--' if colour == MISSED else '-')
                for colour in legend.values()
            ]
            figure.legend(marks, legend, loc='outside lower center', ncols=legend_columns)
        if heat:
            _heat_bar(figure, axes, heat, shrink=0.9)
    return figure


def draw_heat(axis: plt.Axes, heat: np.ndarray) -> None:
    """Draw a heatmap (H, W) from 0 to 1 over the picture of the same size in `axis`."""
    axis.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=heat_opacity(heat))


def heat_opacity(heat: np.ndarray) -> np.ndarray:
    """How opaque heat from 0 to 1 is over a picture: the less heat, the more of the picture."""
    return 0.25 + 0.55 * np.clip(heat, 0, 1)


def _heat_bar(
    figure: Figure,
    axes: np.ndarray,
    text: str,
    shrink: float,
    limits: tuple[float, float] = (0, 1),
) -> None:
    colours = ScalarMappable(Normalize(*limits), HEAT)
    bar = figure.colorbar(
        colours, ax=axes, pad=0.01, label=text, location='bottom', shrink=shrink, aspect=40
    )
    bar.outline.set_visible(False)


@dataclass
class GateRow:
    """The attention weights of one CBAM for `attention_sheet`.

    Attributes:
        name: short name of the block.
        stage: name of the stage; its blocks share a panel of channel weights.
        channel: channel weights (C,), or None.
        spatial: spatial weights (H, W), or None.
        over_image: whether the spatial weights have the size of the picture, or of a region.
        maximum: the largest possible weight, 1 or 2.
    """

    name: str
    stage: str
    channel: np.ndarray | None
    spatial: np.ndarray | None
    over_image: bool
    maximum: int


def attention_sheet(picture: np.ndarray, rows: Sequence[GateRow], title: str = 'image') -> Figure:
    """Show the spatial weights over the picture, and below the channel weights of each stage.

    All spatial panels share one colour scale, from the lowest weight to the highest, or at least
    `MIN_RANGE` wide; the titles give the range of each block. The channel weights are sorted, and
    shown as a histogram. A block whose weights differ by less than `UNIFORM` gets no heatmap.
    """
    maps = [(row, row.spatial) for row in rows if row.spatial is not None]
    limits = heat_limits([weights for _, weights in maps])
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
                _spatial_panel(axis, picture, row, weights, limits)
            if any(np.ptp(weights) >= UNIFORM for _, weights in maps):
                text = 'spatial attention weight'
                _heat_bar(axes.flat[0].figure, axes, text, shrink=0.6, limits=limits)
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
            axes[1, 0].set_ylabel('share of channels')
    return figure


def heat_limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of a colour scale for attention weights, at least `MIN_RANGE` apart."""
    if not maps:
        return 0.0, 1.0
    low = min(float(weights.min()) for weights in maps)
    high = max(float(weights.max()) for weights in maps)
    return low, max(high, low + MIN_RANGE)


def _spatial_panel(
    axis: plt.Axes,
    picture: np.ndarray,
    row: GateRow,
    weights: np.ndarray,
    limits: tuple[float, float],
) -> None:
    low, high = float(weights.min()), float(weights.max())
    uniform = high - low < UNIFORM
    heat = (weights - limits[0]) / (limits[1] - limits[0])
    if row.over_image:
        axis.imshow(picture)
        if not uniform:
            draw_heat(axis, heat)
    else:
        axis.imshow(heat, cmap=HEAT, vmin=0, vmax=1)
    suffix = '' if row.over_image else ', mean over regions'
    span = f'{low:.3f} everywhere' if uniform else f'{low:.3f} to {high:.3f}'
    axis.set_title(f'{row.name}{suffix}\n{span}', fontsize=7.5)


def _channel_panels(
    curve: plt.Axes, histogram: plt.Axes, rows: Sequence[tuple[GateRow, np.ndarray]], maximum: int
) -> None:
    shades = plt.get_cmap('viridis')(np.linspace(0, 0.85, len(rows)))
    bins = np.linspace(0, maximum, 42).tolist()  # the middle bin is for weights without effect
    for (row, weights), shade in zip(rows, shades, strict=True):
        positions = np.linspace(0, 1, len(weights))
        curve.plot(positions, np.sort(weights)[::-1], color=shade, lw=1.2, label=row.name)
        share = np.full(len(weights), 1 / len(weights))
        histogram.hist(weights, bins, weights=share, histtype='step', color=shade, lw=1.2)
    curve.axhline(rows[0][0].maximum / 2, color='black', lw=0.6, ls=':')
    curve.set(ylim=(0, maximum), xlabel='sorted channels')
    histogram.set(xlim=(0, maximum), xlabel='channel weight')
    if len(rows) <= 8:
        curve.legend(fontsize=6, ncols=1 if len(rows) < 5 else 2)  # above the line of 1


def grid(items: Sequence, columns: int) -> list[list]:
    """Divide `items` into rows with `columns` items each."""
    return [list(items[start : start + columns]) for start in range(0, len(items), columns)]


def _draw(axis: plt.Axes, boxes: Boxes, height: int, width: int) -> None:
    for (x1, y1, x2, y2), caption, colour in zip(
        boxes.boxes, boxes.captions, boxes.colours, strict=True
    ):
        line = '--' if colour == MISSED else '-'
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.6, ls=line)
        )
        if caption:
            # At the edges of the picture, the label stays inside: above it is the title.
            at_top, at_right = y1 < 0.1 * height, x1 > 0.75 * width
            axis.text(
                x2 if at_right else x1,
                max(y1, 0) + 1 if at_top else y1 - 1,
                caption,
                color='white',
                fontsize=6.5,
                ha='right' if at_right else 'left',
                va='top' if at_top else 'bottom',
                bbox=dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85),
            )
