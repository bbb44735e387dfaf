"""The results of several models for one image, side by side: detections, attention, Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..apis.inference import Prediction, PreparedImage, matching_prediction
from ..models.attention_modules import named_cbams
from ..utils.errors import InputError
from .attention import gate_rows, gates
from .figures import CYCLE, Boxes, Cell, GateRow
from .gradcam import Explainer, explained_cell, heats_at_shared_layer


@dataclass
class Result:
    """What one model computes for an image.

    Attributes:
        explainer: Grad-CAM of the model.
        prepared: the picture.
        predictions: its detections by decreasing score.
        gates: the weights of its CBAMs by their short names.
    """

    explainer: Explainer
    prepared: PreparedImage
    predictions: list[Prediction]
    gates: dict[str, GateRow]


def run_model(explainer: Explainer, path: Path) -> Result:
    """Run a model on an image file.

    Raises:
        InputError: it cannot be read or resized, or the model predicts no upright boxes.
    """
    predictor = explainer.predictor
    try:
        prepared = predictor.prepare(path)
    except cv2.error as error:
        raise InputError(
            f'{path} is too narrow for the pipeline of {predictor.name}; give a less narrow image'
        ) from error
    rows: list[GateRow] = []
    if any(named_cbams(predictor.model)):
        rows = gate_rows(prepared, gates(predictor.model, prepared.data))
    return Result(explainer, prepared, predictor.predict(prepared), {row.name: row for row in rows})


def detection_cells(results: Sequence[Result], score: float) -> list[Cell]:
    """The detections of each model with a score of `score` or more, the highest first."""
    cells = []
    for result in results:
        predictor = result.explainer.predictor
        shown = [row for row in result.predictions if float(row.score) >= score]
        captions = [f'{predictor.name_of(row.label)} {float(row.score):.2f}' for row in shown]
        boxes = np.array([row.corners for row in shown]).reshape(-1, 4)
        colours = [CYCLE[row.label % len(CYCLE)] for row in shown]
        title = f'{predictor.name}\n{len(shown)} of {len(result.predictions)} detections'
        cells.append(Cell(result.prepared.picture, Boxes(boxes, captions, colours), title))
    return cells


def attention_cells(results: Sequence[Result], layer: str | None) -> list[Cell]:
    """The weights of one CBAM, by its short name, in each model.

    The heat goes from the lowest spatial weight to the highest, and fades with this range relative
    to the widest of the model's CBAMs.
    """
    cells = []
    for result in results:
        title, heat = result.explainer.predictor.name, None
        row = result.gates.get(layer or '')
        if row is None:
            title += '\nno such module' if result.gates else '\nno CBAM'
        elif row.spatial is None:
            title += '\nno spatial gate'
        else:
            low, high = float(row.spatial.min()), float(row.spatial.max())
            uniform = high - low < 1e-3
            span = f'{low:.3f} everywhere' if uniform else f'{low:.3f} to {high:.3f}'
            title += f'\nspatial weights {span}'
            if not row.over_image:
                title += ', mean of the regions'
            elif not uniform:
                heat = (row.spatial - low) / _widest_range(result)
        if row is not None and row.channel is not None:
            title += f'\nchannel weights {row.channel.min():.3f} to {row.channel.max():.3f}'
        cells.append(Cell(result.prepared.picture, Boxes(np.zeros((0, 4)), [], []), title, heat))
    return cells


def _widest_range(result: Result) -> float:
    maps = [row.spatial for row in result.gates.values() if row.over_image]
    return max(float(np.ptp(weights)) for weights in maps if weights is not None)


def gradcam_cells(results: Sequence[Result], place: int, index: int) -> tuple[str, list[Cell]]:
    """Grad-CAM of a detection of one model, and of the matching one of each other model.

    Args:
        results: of the models, of the same image.
        place: of the model in `results`.
        index: of the detection in that model's `predictions`.

    Returns:
        What is shown, in words, and the cells.

    Raises:
        InputError: there is no gradient from a model's scores to its features.
    """
    wanted = results[place].predictions[index]
    predictions = [
        wanted if number == place else matching_prediction(result.predictions, wanted)
        for number, result in enumerate(results)
    ]
    explainers = [result.explainer for result in results]
    prepared = [result.prepared for result in results]
    layer, heats = heats_at_shared_layer(explainers, prepared, predictions)
    name = results[place].explainer.predictor.name_of(wanted.label)
    cells = list(map(explained_cell, explainers, prepared, predictions, heats))
    return f'Grad-CAM of {name}, at {layer}', cells
