"""The share of Grad-CAM's heat inside objects, over a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mmengine.config import Config
from rich.progress import track

from ..apis.inference import Prediction, PreparedImage, check_matching_classes, unique_name
from ..utils.errors import InputError
from ..utils.records import origin_line, table_head, table_row
from .detections import dataset_with_boxes, evenly_spaced, match_detections, scored_objects
from .gradcam import Explainer, heats_at_shared_layer
from .heat import area_share, inside


def focus_table(record: dict) -> str:
    """The table of `tools/visualize.py focus`.

    Mean and standard deviation over images; for all models but the first also the mean difference
    to the first with its 95% interval.
    """
    head = ['model', 'heat inside the object', 'difference', 'peak inside the object', 'difference']
    rows = table_head(head)
    for name, row in record['rows'].items():
        cells = []
        for kind in ('energy', 'pointing'):
            cells.append('{:.1%} ± {:.1%}'.format(*row[kind]))
            gain = row.get(f'{kind}_more')
            template = '{:+.1%} ({:+.1%} to {:+.1%})' if gain and gain[1] is not None else '{:+.1%}'
            cells.append(template.format(*gain) if gain else '')
        rows.append(table_row([name, *cells]))
    chance = f'{record["chance"]:.1%}'
    rows.append(table_row(['*evenly spread heat*', chance, '', chance, '']))
    caption = (
        f'{record["objects"]} objects in {record["images"]} images that all models detect with a '
        f'score of {record["score"]:g} or more ({record["left_out"]} other objects are left out); '
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
    """Measure the share of Grad-CAM's heat inside the objects of a data set.

    Only objects that all models detect are used (same class, IoU of at least 0.5). For each of
    them: the share of the heat inside the ground-truth box, whether the maximum of the heat is
    inside, and the share of the image that the box covers, which evenly spread heat would reach.
    These are averaged over the objects of an image first, then over images. Differences to the
    first model are paired by image.

    Args:
        cfg: the config whose data are used.
        explainers: one for each model; the others are compared with the first.
        split: 'train', 'val' or 'test'.
        count: number of images, evenly spaced over the data set.
        score: detections with a lower score are ignored, 0 to 1.

    Returns:
        'split', 'score', 'method', 'target'; 'layers': number of objects by layer, see
        `heats_at_shared_layer`; 'images' and 'objects': how many were used; 'left_out': number of
        objects that some model does not detect or has no heat for; 'chance': the mean share of the
        image that a box covers; and 'rows': by model 'energy' and 'pointing' (mean and standard
        deviation over images), and for all but the first model 'energy_more' and 'pointing_more',
        see `difference`.

    Raises:
        InputError: the data cannot be used, the classes differ, or no object is detected by all
            models.
    """
    dataset = dataset_with_boxes(cfg, split)
    check_matching_classes(
        [explainer.predictor for explainer in explainers], dataset.metainfo['classes']
    )
    infos = [dataset.get_data_info(index) for index in evenly_spaced(len(dataset), count)]
    infos = list({info['img_path']: info for info in infos}.values())  # without repetitions
    images = [
        _measure_image(explainers, info, score)
        for info in track(infos, 'explaining', transient=True)
    ]
    left_out = sum(image.left_out for image in images)
    images = [image for image in images if image.shares]
    if not images:
        raise InputError(
            f'none of {left_out} objects in {len(infos)} images is detected by every model; use '
            'more images (--count), a lower --score, or models that were trained longer'
        )
    # Means over the objects of each image: (images, models).
    energy, pointing = (
        np.array([np.mean(image.shares, axis=0)[:, kind] for image in images]) for kind in (0, 1)
    )
    table: dict[str, dict] = {}
    for number, explainer in enumerate(explainers):
        row = table[unique_name(explainer.predictor.name, table)] = {}
        for kind, values in (('energy', energy), ('pointing', pointing)):
            row[kind] = [round(float(values[:, number].mean()), 4), _spread(values[:, number])]
            if number:
                row[f'{kind}_more'] = difference(values[:, number] - values[:, 0])
    return dict(
        split=split,
        score=score,
        method=explainers[0].method,
        target=explainers[0].target,
        layers=dict(Counter(layer for image in images for layer in image.layers)),
        images=len(images),
        objects=sum(len(image.shares) for image in images),
        left_out=left_out,
        chance=round(float(np.mean([np.mean(image.areas) for image in images])), 4),
        rows=table,
    )


@dataclass
class _Image:
    """The measurements in one image.

    Attributes:
        shares: for each object and model the share of the heat inside the box, and whether the
            maximum is inside.
        areas: for each object the share of the image that its box covers.
        layers: the layer of each object's heat.
        left_out: the number of objects that some model does not detect or has no heat for.
    """

    shares: list[list[tuple[float, bool]]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left_out: int = 0


def _measure_image(explainers: Sequence[Explainer], info: dict, score: float) -> _Image:
    prepared_images = [explainer.predictor.prepare(info['img_path']) for explainer in explainers]
    detections = [
        _matched_detections(explainer, prepared, info, score)
        for explainer, prepared in zip(explainers, prepared_images, strict=True)
    ]
    image = _Image()
    for index, item in enumerate(scored_objects(info)):
        box = np.asarray(item['bbox'])
        same_object = [by_index.get(index) for by_index in detections]
        shares = []
        if None not in same_object:
            layer, heats = heats_at_shared_layer(explainers, prepared_images, same_object)
            shares = [share for heat in heats if heat is not None and (share := inside(heat, box))]
        if len(shares) < len(explainers):
            image.left_out += 1
            continue
        image.shares.append(shares)
        image.areas.append(area_share(prepared_images[0].picture.shape[:2], box))
        image.layers.append(layer)
    return image


def _matched_detections(
    explainer: Explainer, prepared: PreparedImage, info: dict, score: float
) -> dict[int, Prediction]:
    """The detection of each detected object, by the index of the object."""
    detections = [
        detection
        for detection in explainer.predictor.predict(prepared)
        if float(detection.score) >= score
    ]
    if detections and detections[0].box is None:
        raise InputError(
            f'{explainer.predictor.name} is not a detector, but focus needs boxes; give a detector'
        )
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
    """The mean of n paired differences, and its 95% interval from 10,000 bootstrap samples.

    The interval is None for fewer than five differences.
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
