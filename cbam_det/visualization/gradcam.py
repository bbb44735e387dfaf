"""Grad-CAM (Selvaraju et al., ICCV 2017) for detections, and how much of its heat meets objects.

Grad-CAM weighs a layer's channels by their mean gradient over the image. A detection's gradient
lies around its box, and its mean loses where: most of the heat is elsewhere. HiResCAM (Draelos and
Carin, 2020) multiplies before it takes means, which in a classifier's last layer, the paper's case,
is the same map. It is the default.

A detector's `predict` keeps the gradient from a detection's score, through NMS, its head and, in
two-stage detectors, RoIAlign on the very proposal, to the features. The maps are the `grad-cam`
library's; here it gets detections as its targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from rich.progress import track
from torch import Tensor, nn

from ..errors import InputError
from .detections import dataset_of, evenly
from .figures import BLUE, Boxes, Cell, sheet
from .subject import (
    Found,
    Subject,
    View,
    attached,
    default_layer,
    feature_layers,
    findings,
    module,
    same,
)

try:
    import pytorch_grad_cam as library
except ImportError as error:
    raise InputError(f'Grad-CAM needs another package ({error}): pip install grad-cam') from None

# The library's methods that need one backward pass; the others take hundreds of forward passes a
# detection, or do not look at the detection at all.
METHODS = {
    'hirescam': library.HiResCAM,
    'gradcam': library.GradCAM,
    'gradcam++': library.GradCAMPlusPlus,
    'xgradcam': library.XGradCAM,
    'layercam': library.LayerCAM,
    'elementwise': library.GradCAMElementWise,
    'eigengradcam': library.EigenGradCAM,
}
TARGETS = ('score', 'box')


class _Predictions(nn.Module):
    """A model as the library calls it: an input tensor -> the findings of its one image."""

    def __init__(self, subject: Subject, view: View) -> None:
        super().__init__()
        self.model, self.samples = subject.model, view.data['data_samples']

    def forward(self, inputs: Tensor) -> list[list[Found]]:
        return [findings(self.model(inputs, self.samples, mode='predict')[0])]


@dataclass
class _Target:
    """The number whose gradient is asked for: the score of a finding, or the size of its box."""

    wanted: Found
    kind: str

    def __call__(self, found: list[Found]) -> Tensor:
        one = same(found, self.wanted)
        if one is None:
            raise InputError('the model does not find this in the image; explain what it finds')
        value = one.score
        if self.kind == 'box':
            if one.box is None:
                raise InputError('--target box: a classifier has no boxes; explain the score')
            x1, y1, x2, y2 = one.box
            value = (x2 - x1) + (y2 - y1)
        if not value.requires_grad:
            raise InputError(
                f'the head of this model predicts a {self.kind} without gradient, which Grad-CAM '
                'needs; try the other --target'
            )
        return value


class Explainer:
    """Grad-CAM of one model.

    Args:
        subject: a detector, or a classifier.
        layers: names of modules that make a feature map; several are averaged, each from 0 to 1.
            None is the backbone's last map.
        method: a key of `METHODS`.
        target: 'score', or 'box': width plus height, so that the map shows what widens the box.

    Raises:
        InputError: an unknown method or target.
    """

    def __init__(
        self,
        subject: Subject,
        layers: Sequence[str] | None = None,
        method: str = 'hirescam',
        target: str = 'score',
    ) -> None:
        for option, value, known in (('method', method, METHODS), ('target', target, TARGETS)):
            if value not in known:
                raise InputError(f'--{option} {value} is unknown; choose from {", ".join(known)}')
        self.subject, self.names, self.method, self.target = subject, layers, method, target
        self._layers: list[nn.Module] | None = None

    def layers(self, view: View) -> list[nn.Module]:
        """The modules that are looked at; their names are in `names` from then on.

        Raises:
            InputError: a name is none of a layer with a feature map; near names are listed.
        """
        if self._layers is None:
            known = feature_layers(self.subject, view)
            if not known:
                raise InputError(f'{self.subject.name} has no layer that makes a feature map')
            self.names = list(self.names or [default_layer(known)])
            model = self.subject.model
            self._layers = [module(model, name, known) for name in self.names]
        return self._layers

    def heat(self, view: View, wanted: Found) -> np.ndarray:
        """(H, W) over the picture, 0 to 1: what speaks for a finding; all 0 where nothing does.

        Raises:
            InputError: the model does not find it, or no gradient reaches a layer from it.
        """
        layers = self.layers(view)
        frozen = [one for one in self.subject.model.parameters() if not one.requires_grad]
        for one in frozen:  # or their maps would have no gradient
            one.requires_grad_()
        # A copy, since what comes after a layer may write into its map.
        cam = METHODS[self.method](
            _Predictions(self.subject, view), layers, reshape_transform=Tensor.clone
        )
        try:
            with attached():
                heat = cam(view.data['inputs'], [_Target(wanted, self.target)])[0]
            reached = len(cam.activations_and_grads.gradients)
        finally:
            cam.activations_and_grads.release()
            self.subject.model.zero_grad()
            for one in frozen:
                one.requires_grad_(False)
        if reached < len(layers):
            raise InputError(
                f'no gradient of the {self.target} reaches --layer {" ".join(self.names)} of '
                f'{self.subject.name}; choose a layer that the head reads'
            )
        heat = view.put(np.nan_to_num(heat))
        return heat / (heat.max() or 1)


def inside(heat: np.ndarray, box: np.ndarray) -> tuple[float, bool]:
    """Of the heat the share inside a box, and whether its peak lies there (pointing game).

    Args:
        heat: (H, W), not negative. Without any heat the share is 0 and nothing is pointed at.
        box: (4,) x1 y1 x2 y2 in pixels; a pixel counts where its centre is inside.
    """
    rows, columns = (np.arange(size) + 0.5 for size in heat.shape)
    x1, y1, x2, y2 = box
    within = np.outer((rows > y1) & (rows < y2), (columns > x1) & (columns < x2))
    total = heat.sum(dtype=np.float64)
    if not total:
        return 0.0, False
    return float(heat[within].sum(dtype=np.float64) / total), bool(within.flat[heat.argmax()])


def in_box(heat: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The heat inside a box, from 0 to 1 there, and 0 outside."""
    x1, y1 = np.floor(box[:2]).astype(int).clip(0)
    x2, y2 = np.ceil(box[2:]).astype(int)
    part = heat[y1:y2, x1:x2]
    shown = np.zeros_like(heat)
    if part.size and part.max() > part.min():
        shown[y1:y2, x1:x2] = (part - part.min()) / (part.max() - part.min())
    return shown


def gradcam_page(
    image: str,
    explainers: Sequence[Explainer],
    score: float = 0.3,
    class_name: str | None = None,
    count: int = 4,
    norm_in_box: bool = False,
) -> Figure:
    """A row for each detection, a column for each model; the score under each picture.

    Args:
        image: path of an image file.
        explainers: of the models; the first one's detections are explained, in all of them.
        score: detections of the first model below it are left out.
        class_name: only detections of this class; a classifier's class to explain.
        count: most detections that are shown.
        norm_in_box: the heat from 0 to 1 inside the box, and none outside.

    Raises:
        InputError: no image, no detection above the score, or a layer that does not exist.
    """
    first = explainers[0].subject
    views = [one.subject.see(image) for one in explainers]
    found = [one.subject.look(view) for one, view in zip(explainers, views, strict=True)]
    chosen = _choose(first, found[0], score, class_name, count, image)
    rows = []
    for wanted in track(chosen, 'explaining', transient=True):
        name = first.name_of(wanted.label)
        boxes = Boxes(np.zeros((0, 4)), [], [])
        if wanted.box is not None:
            boxes = Boxes(wanted.corners[None], [name], [BLUE])
        row = [Cell(views[0].picture, boxes, name)]
        for one, view, rows_found in zip(explainers, views, found, strict=True):
            row.append(_explained(one, view, same(rows_found, wanted), norm_in_box))
        rows.append(row)
    return sheet(rows, heat='what speaks for it' + ' (in the box)' * norm_in_box)


def _explained(one: Explainer, view: View, twin: Found | None, norm_in_box: bool) -> Cell:
    empty = Boxes(np.zeros((0, 4)), [], [])
    if twin is None:
        return Cell(view.picture, empty, f'{one.subject.name}\nnot found')
    heat = one.heat(view, twin)
    title = f'{one.subject.name}\nP = {float(twin.score):.3f}'
    if twin.box is None:
        return Cell(view.picture, empty, title, heat)
    title += f'\n{inside(heat, twin.corners)[0]:.0%} of the heat in the box'
    shown = in_box(heat, twin.corners) if norm_in_box else heat
    return Cell(view.picture, Boxes(twin.corners[None], [''], [BLUE]), title, shown)


def _choose(
    subject: Subject,
    found: list[Found],
    score: float,
    class_name: str | None,
    count: int,
    image: str,
) -> list[Found]:
    if count < 1:
        raise InputError(f'--count {count} shows nothing; use 1 or more')
    of = ''
    if class_name is not None:
        label = subject.label_of(class_name)
        found = [row for row in found if row.label == label]
        of = f' of {class_name}'
    if found and found[0].box is None:  # a classifier: the class asked for, or the likeliest
        return found[:1] if class_name is not None else found[:count]
    chosen = [row for row in found if float(row.score) >= score]
    if not chosen:
        best = f'the best has {float(found[0].score):.3f}' if found else 'there is none at all'
        raise InputError(
            f'{subject.name} has no detection{of} in {image} with a score of {score:g} or more '
            f'({best}); lower --score, or give another image'
        )
    return chosen[:count]


def focus(
    cfg: Config, explainers: Sequence[Explainer], split: str = 'val', count: int = 50
) -> dict:
    """How much of Grad-CAM's heat lies inside the objects, over a data set.

    For each object that all models find (its class, IoU >= 0.5): the share of the heat inside the
    ground-truth box, whether the peak lies there, and the box's share of the picture, which heat
    spread evenly would have inside. Images are the units of the spread: means of an image's
    objects are averaged, and differences to the first model are paired.

    Args:
        cfg: whose data are looked at.
        explainers: of the models; the first is what the others are compared with.
        split: 'train', 'val' or 'test'.
        count: images, evenly over the data set.

    Returns:
        'images' and 'objects' counted, 'left_out' (objects that a model does not find), 'chance',
        and 'rows': by model 'energy', 'pointing' (mean and standard deviation over images), and
        for all but the first 'energy_more', 'pointing_more' (mean difference and its 95% interval
        from 10,000 resamples of the images).

    Raises:
        InputError: the data cannot be used, or there is no object that all models find.
    """
    dataset = dataset_of(cfg, split)
    energy, pointing, chance = [], [], []
    objects = left_out = 0
    for index in track(evenly(len(dataset), count), 'explaining', transient=True):
        info = dataset.get_data_info(index)
        views = [one.subject.see(info['img_path']) for one in explainers]
        found = [one.subject.look(view) for one, view in zip(explainers, views, strict=True)]
        shares, hits, areas = [], [], []
        for item in info['instances']:
            if item.get('ignore_flag'):
                continue
            box = torch.tensor(item['bbox'])
            truth = Found(item['bbox_label'], torch.tensor(1.0), box)
            twins = [same(rows, truth) for rows in found]
            if None in twins:
                left_out += 1
                continue
            seen = [
                inside(one.heat(view, twin), box.numpy())
                for one, view, twin in zip(explainers, views, twins, strict=True)
            ]
            shares.append([share for share, _ in seen])
            hits.append([hit for _, hit in seen])
            areas.append(inside(np.ones(views[0].picture.shape[:2]), box.numpy())[0])
        if shares:
            objects += len(shares)
            energy.append(np.mean(shares, 0))
            pointing.append(np.mean(hits, 0))
            chance.append(np.mean(areas))
    if not objects:
        raise InputError(
            f'of {left_out} objects in {count} images none is found by every model; take more '
            'images (--count), or train on'
        )
    rows: dict[str, dict] = {}
    for number, one in enumerate(explainers):
        row = rows[_free(one.subject.name, rows)] = dict(layers=one.names)
        for kind, values in (('energy', np.array(energy)), ('pointing', np.array(pointing))):
            row[kind] = [round(float(values[:, number].mean()), 4), _spread(values[:, number])]
            if number:
                row[f'{kind}_more'] = difference(values[:, number] - values[:, 0])
    return dict(
        images=len(energy),
        objects=objects,
        left_out=left_out,
        chance=round(float(np.mean(chance)), 4),
        rows=rows,
    )


def difference(values: np.ndarray) -> list[float]:
    """Mean of n paired differences, and the ends of its 95% interval from 10,000 resamples."""
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return [round(float(value), 4) for value in (values.mean(), low, high)]


def _spread(values: np.ndarray) -> float:
    return round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 4)


def _free(name: str, taken: dict) -> str:
    """`name`, numbered where it stands already (the same config with other weights)."""
    number = 2
    free = name
    while free in taken:
        free = f'{name} ({number})'
        number += 1
    return free
