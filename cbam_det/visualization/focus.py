"""How much of Grad-CAM's heat lies inside objects, over a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from rich.progress import track

from ..apis.inference import (
    Prediction,
    PreparedImage,
    check_matching_classes,
    unique_name,
)
from ..utils.errors import InputError
from ..utils.records import origin_line, table_row
from .detections import dataset_of, evenly_spaced, match_detections
from .gradcam import Explainer, area_share, heats_at_shared_layer, inside


def focus_table(record: dict) -> str:
    """Rows for `tools/visualize.py focus`: mean and standard deviation over images;
    for all models but the first the mean difference to it and its 95% interval.
    """
    head = ['model', 'heat inside the object', 'more', 'peak inside the object', 'more']
    rows = [table_row(head), table_row(['---', *['---:'] * 4])]
    for name, row in record['rows'].items():
        cells = []
        for kind in ('energy', 'pointing'):
            cells.append('{:.1%} ± {:.1%}'.format(*row[kind]))
            gain = row.get(f'{kind}_more')
            template = '{:+.1%} ({:+.1%} to {:+.1%})' if gain and gain[1] is not None else '{:+.1%}'
            cells.append(template.format(*gain) if gain else '')
        rows.append(table_row([name, *cells]))
    chance = f'{record["chance"]:.1%}'
    rows.append(table_row(['*heat spread evenly*', chance, '', chance, '']))
    caption = (
        f'{record["objects"]} objects of {record["images"]} images, which all of these find '
        f'with a score of {record["score"]:g} or more ({record["left_out"]} left out), '
        f'{record["method"]} at '
        + ', '.join(f'{name} ({number})' for name, number in record['layers'].items())
    )
    return '\n'.join([*rows, '', f'{caption}; {origin_line(record)}'])


def focus(
    cfg: Config,
    explainers: Sequence[Explainer],
    split: str = 'val',
    count: int = 50,
    score: float = 0.3,
) -> dict:
    """How much of Grad-CAM's heat lies inside the objects, over a data set.

    For each object that all models find (each by a detection of its own, of its class, with an
    IoU of 0.5 or more): the share of the heat inside the ground-truth box, whether the peak lies
    there, and the box's share of the picture, which heat spread evenly would have inside. Images
    are the units of the spread: means of an image's objects are averaged, and differences to the
    first model are paired.

    Args:
        cfg: whose data are looked at.
        explainers: of the models; the first is what the others are compared with.
        split: 'train', 'val' or 'test'.
        count: images, evenly over the data set.
        score: detections below it find nothing, 0 to 1.

    Returns:
        'split', 'score', 'method', 'target'; 'layers' (by name the objects that were looked at
        there, see `heats_at_shared_layer`); 'images' and 'objects' that count; 'left_out' (objects
        that a model does not find, or has no heat for); 'chance'; and 'rows': by model 'energy' and
        'pointing' (mean and standard deviation over images), and for all but the first
        'energy_more' and 'pointing_more'; see `difference`.

    Raises:
        InputError: the data cannot be used, the classes differ, or no object is found by all.
    """
    dataset = dataset_of(cfg, split)
    check_matching_classes(
        [explainer.predictor for explainer in explainers], dataset.metainfo['classes']
    )
    energy, pointing, chance = [], [], []
    objects = left_out = 0
    layers: Counter[str] = Counter()
    infos = [dataset.get_data_info(index) for index in evenly_spaced(len(dataset), count)]
    infos = list({info['img_path']: info for info in infos}.values())  # a data set may repeat
    for info in track(infos, 'explaining', transient=True):
        prepared_images = [
            explainer.predictor.prepare(info['img_path']) for explainer in explainers
        ]
        detections = [
            _matched_detections(explainer, prepared, info, score)
            for explainer, prepared in zip(explainers, prepared_images, strict=True)
        ]
        items = [item for item in info['instances'] if not item.get('ignore_flag')]
        rows, areas = [], []
        for index, item in enumerate(items):
            box = np.asarray(item['bbox'])
            same_object = [by_index.get(index) for by_index in detections]
            if None in same_object:
                left_out += 1
                continue
            layer, heats = heats_at_shared_layer(explainers, prepared_images, same_object)
            measured = [inside(heat, box) for heat in heats if heat is not None]
            if None in measured:
                left_out += 1
                continue
            layers[layer] += 1
            rows.append(measured)
            areas.append(area_share(prepared_images[0].picture.shape[:2], box))
        if rows:
            objects += len(rows)
            shares, peaks = np.moveaxis(np.array(rows, np.float64), 2, 0)
            energy.append(shares.mean(0))
            pointing.append(peaks.mean(0))
            chance.append(np.mean(areas))
    if not objects:
        raise InputError(
            f'of {left_out} objects in {len(infos)} images none is found by every model; take more '
            'images (--count), a lower --score, or models that are trained longer'
        )
    table: dict[str, dict] = {}
    for number, explainer in enumerate(explainers):
        row = table[unique_name(explainer.predictor.name, table)] = {}
        for kind, values in (('energy', np.array(energy)), ('pointing', np.array(pointing))):
            row[kind] = [round(float(values[:, number].mean()), 4), _spread(values[:, number])]
            if number:
                row[f'{kind}_more'] = difference(values[:, number] - values[:, 0])
    return dict(
        split=split,
        score=score,
        method=explainers[0].method,
        target=explainers[0].target,
        layers=dict(layers),
        images=len(energy),
        objects=objects,
        left_out=left_out,
        chance=round(float(np.mean(chance)), 4),
        rows=table,
    )


def _matched_detections(
    explainer: Explainer, prepared: PreparedImage, info: dict, score: float
) -> dict[int, Prediction]:
    """By the index of an object, the detection that finds it."""
    detections = [
        detection
        for detection in explainer.predictor.predict(prepared)
        if float(detection.score) >= score
    ]
    if detections and detections[0].box is None:
        raise InputError(f'{explainer.predictor.name} is no detector; focus needs boxes')
    corners = np.array([detection.corners for detection in detections]).reshape(-1, 4)
    labels, scores = (
        np.array([float(getattr(detection, key)) for detection in detections])
        for key in ('label', 'score')
    )
    matches = match_detections(info, corners, labels, scores)
    return {
        index: detection
        for index, detection in zip(matches, detections, strict=True)
        if index is not None
    }


def difference(values: np.ndarray) -> list[float | None]:
    """Mean of n paired differences, and the ends of its 95% interval from 10,000 resamples, which
    are None below five.
    """
    mean = round(float(values.mean()), 4)
    if len(values) < 5:
        return [mean, None, None]
    random = np.random.default_rng(0)
    size = len(values)
    means = [values[random.integers(size, size=size)].mean() for _ in range(10_000)]
    return [mean, *(round(float(end), 4) for end in np.percentile(means, [2.5, 97.5]))]


def _spread(values: np.ndarray) -> float:
    return round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 4)
