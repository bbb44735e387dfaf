"""Cells of figures as SVG inside HTML, which needs no file; a box in it can be clicked."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from .figures import HEAT, Cell, heat_opacity

SIDE = 1024  # pixels of the longest side that a picture is scaled down to
CSS = """
p[role=alert] { color: var(--error-text-color); }
.cells { display: flex; flex-wrap: wrap; gap: 1rem; }
.cells figure { flex: 1 1 18rem; margin: 0; min-width: 0; }
.cells svg { display: block; width: 100%; max-height: 70vh; }
.cells figcaption { white-space: pre-line; padding-top: .4rem; }
.cells text { fill: white; stroke-width: .25em; paint-order: stroke; }
.cells rect { fill: transparent; stroke-width: 2; vector-effect: non-scaling-stroke; }
.cells [data-index] { cursor: pointer; outline: none; }
.cells rect[data-index]:is(:hover, :focus) { stroke-width: 5; }
"""
# A box that is clicked, or chosen by the keyboard, becomes the event `select`.
SELECT = """
const select = (event) => {
  const box = event.target.closest('[data-index]');
  if (!box) return;
  event.preventDefault();
  trigger('select', {place: Number(box.dataset.place), index: Number(box.dataset.index)});
};
element.addEventListener('click', select);
element.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' || event.key === ' ') select(event);
});
"""


def cells_html(title: str, cells: Sequence[Cell], clickable: bool = False) -> str:
    """Pictures side by side, each with its text, its heat and its boxes, as SVG in HTML.

    Args:
        title: stands over them.
        cells: one for each model.
        clickable: a box has its model's place and its own index as data, for `SELECT`.
    """
    figures = ''.join(_figure_html(cell, place, clickable) for place, cell in enumerate(cells))
    return f'<h3>{html.escape(title)}</h3><div class="cells">{figures}</div>'


def _figure_html(cell: Cell, place: int, clickable: bool) -> str:
    height, width = cell.picture.shape[:2]
    scale = min(1, SIDE / max(height, width))
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    shown = cv2.resize(cell.picture, sides, interpolation=cv2.INTER_AREA)
    images = [_image_html(shown[..., ::-1], '.jpg', width, height)]
    if cell.heat is not None:
        heat = cv2.resize(cell.heat, sides)
        rgba = matplotlib.colormaps[HEAT](heat)
        rgba[..., 3] = heat_opacity(heat)
        bgra = (255 * rgba[..., [2, 1, 0, 3]]).astype(np.uint8)
        images.append(_image_html(bgra, '.png', width, height))
    boxes = cell.boxes.boxes
    size = max(height, width) / 32  # of the text
    rects, texts = [], []
    # Small boxes over large ones, so that each can be clicked.
    for index in np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind='stable'):
        x1, y1, x2, y2 = boxes[index]
        caption = html.escape(cell.boxes.captions[index])
        style = data = f'stroke="{cell.boxes.colours[index]}"'
        if clickable:
            data += f' data-place="{place}" data-index="{index}"'
            style = f'{data} role="button" tabindex="0" aria-label="{caption}"'
        rects.append(
            f'<rect {style} x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" '
            f'height="{y2 - y1:.1f}"/>'
        )
        texts.append(
            f'<text {data} x="{x1:.1f}" y="{max(y1, size):.1f}" font-size="{size:.1f}">'
            f'{caption}</text>'
        )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}">{"".join(images + rects + texts)}</svg>'
        f'<figcaption>{html.escape(cell.title)}</figcaption></figure>'
    )


def _image_html(pixels: np.ndarray, ending: str, width: int, height: int) -> str:
    encoded = cv2.imencode(ending, np.ascontiguousarray(pixels))[1]
    data = base64.b64encode(encoded.tobytes()).decode()
    kind = {'.jpg': 'jpeg', '.png': 'png'}[ending]
    return f'<image href="data:image/{kind};base64,{data}" width="{width}" height="{height}"/>'
