"""Grad-CAM (Selvaraju et al., ICCV 2017) for detections, and its share of heat inside objects.

Grad-CAM weights the channels of a layer by their gradient, averaged over the image. The gradient of
a detection is concentrated around its box; averaging loses this position, so that most of the heat
is elsewhere. HiResCAM (Draelos and Carin, 2020), the default here, multiplies features and gradient
before it averages. In the last layer of a classifier, the case of the CBAM paper, both are equal.

The gradient flows from the score of a detection through NMS, the head and, in two-stage detectors,
RoIAlign of its proposal to the features. The maps are computed by the `grad-cam` library, with
detections as its targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor, nn

from ..apis.inference import (
    Prediction,
    Predictor,
    PreparedImage,
    check_matching_classes,
    default_layers,
    feature_layers,
    layer_module,
    matching_prediction,
    predictions_of,
)
from ..models.compat import scores_with_gradients
from ..utils.config import kind_of, walk
from ..utils.errors import InputError
from ..utils.options import cfg_options
from .figures import BLUE, Boxes, Cell, sheet
from .heat import area_share, inside, scaled_in_box

# The classes of the grad-cam library with one backward pass. The others need hundreds of forward
# passes per detection, or do not depend on the detection.
METHODS = {
    'hirescam': 'HiResCAM',
    'gradcam': 'GradCAM',
    'gradcam++': 'GradCAMPlusPlus',
    'xgradcam': 'XGradCAM',
    'layercam': 'LayerCAM',
    'elementwise': 'GradCAMElementWise',
    'eigengradcam': 'EigenGradCAM',
}

TARGETS = ('score', 'box')


class _Predictions(nn.Module):
    """A model in the form for the library: input tensor -> predictions for its single image."""

    def __init__(self, predictor: Predictor, prepared: PreparedImage) -> None:
        super().__init__()
        self.model, self.samples = predictor.model, prepared.data['data_samples']

    def forward(self, inputs: Tensor) -> list[list[Prediction]]:
        return [predictions_of(self.model(inputs, self.samples, mode='predict')[0])]


@dataclass
class _Target:
    """The value to differentiate: the score of a prediction, or the size of its box."""

    wanted: Prediction
    kind: str

    def __call__(self, predictions: list[Prediction]) -> Tensor:
        candidates = [
            candidate for candidate in predictions if candidate.label == self.wanted.label
        ]
        if not candidates:
            raise InputError('the model has no such prediction here; explain one that it has')
        prediction = candidates[0]
        if self.wanted.box is not None:  # the same model and image give the same boxes
            prediction = min(
                candidates,
                key=lambda candidate: np.abs(candidate.corners - self.wanted.corners).max(),
            )
        value = prediction.score
        if self.kind == 'box':
            if prediction.box is None:
                raise InputError('--target box: a classifier has no boxes; use --target score')
            x1, y1, x2, y2 = prediction.box
            value = (x2 - x1) + (y2 - y1)
        if not value.requires_grad:
            raise InputError(
                f'the head of this model computes the {self.kind} without a gradient, but Grad-CAM '
                'needs one; try the other --target'
            )
        return value


class Explainer:
    """Grad-CAM of one model.

    Args:
        predictor: a detector or a classifier.
        layers: names of modules that output a feature map; the maps of several are scaled to 0 to 1
            and averaged. By default the backbone's outputs; see `heats_at_shared_layer`.
        method: a key of `METHODS`.
        target: 'score', or 'box' for width plus height: the map then shows what enlarges the box.

    Raises:
        InputError: an unknown method or target, or the package grad-cam is missing.
    """

    def __init__(
        self,
        predictor: Predictor,
        layers: Sequence[str] | None = None,
        method: str = 'hirescam',
        target: str = 'score',
    ) -> None:
        for option, value, known in (('method', method, METHODS), ('target', target, TARGETS)):
            if value not in known:
                raise InputError(f'--{option} {value} is unknown; choose from {", ".join(known)}')
        try:  # here, because a training needs this module for its report, but not that package
            import pytorch_grad_cam as library
        except ImportError as error:
            raise InputError(f'Grad-CAM needs a package ({error}): pip install grad-cam') from None
        self._cam = getattr(library, METHODS[method])
        self.predictor, self.names, self.method, self.target = predictor, layers, method, target
        self._choices: dict[str, list[nn.Module]] | None = None

    def choices(self, prepared: PreparedImage) -> dict[str, list[nn.Module]]:
        """The layers that can be explained, by name.

        These are the requested layers together, or by default each output of the backbone, the last
        one first.

        Raises:
            InputError: a name is not that of a layer with a feature map; similar names are listed.
        """
        if self._choices is None:
            known = feature_layers(self.predictor, prepared)
            if not known:
                raise InputError(
                    f'{self.predictor.name} has no layer with a feature map, but Grad-CAM needs one'
                )
            names = [self.names] if self.names else [[name] for name in default_layers(known)]
            model = self.predictor.model
            self._choices = {
                ', '.join(choice): [layer_module(model, name, known) for name in choice]
                for choice in names
            }
        return self._choices

    def heat(self, prepared: PreparedImage, wanted: Prediction, choice: int = 0) -> np.ndarray:
        """Compute which parts of the picture raise the score of a prediction.

        The gradients of the model's parameters are cleared.

        Args:
            prepared: the image, from the predictor's `prepare`.
            wanted: a prediction of the model for this image.
            choice: index of an entry of `choices`.

        Returns:
            (H, W) over the picture, 0 to 1; all zeros if the score has no gradient (rounded to 1).

        Raises:
            InputError: the model does not predict this class, or no gradient reaches a layer.
        """
        model = self.predictor.model
        layers = list(self.choices(prepared).values())[choice]
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        cam = None
        try:
            for parameter in frozen:  # otherwise their feature maps would have no gradient
                parameter.requires_grad_()
            # A copy, because a later module may overwrite the feature map in place.
            cam = self._cam(
                _Predictions(self.predictor, prepared), layers, reshape_transform=Tensor.clone
            )
            with scores_with_gradients():
                heat = cam(prepared.data['inputs'], [_Target(wanted, self.target)])[0]
        except NotImplementedError:  # from torch: an operator has no backward pass
            raise InputError(_without_gradient(self.predictor)) from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # from the library
            unreached = cam is not None and len(cam.activations_and_grads.gradients) < len(layers)
            if isinstance(error, InputError) or not unreached:
                raise
            if self.names:
                raise InputError(
                    f'no gradient of the {self.target} reaches --layer {" ".join(self.names)} of '
                    f'{self.predictor.name}; choose a layer before the head'
                ) from None
            return np.zeros(prepared.picture.shape[:2], np.float32)
        finally:
            if cam is not None:
                cam.activations_and_grads.release()
            model.zero_grad()
            for parameter in frozen:
                parameter.requires_grad_(False)
        heat = prepared.resize_to_picture(np.nan_to_num(heat))
        return heat / (heat.max() or 1)


def _without_gradient(predictor: Predictor) -> str:
    """The message for a detector with an operator without gradient after its head."""
    problem = f'{predictor.name} has an operator without gradient after its head'
    # The whole dict is replaced, because NMS does not take all options of soft-NMS.
    options: dict[str, object] = {}
    for path, node in walk(predictor.cfg.model, 'model'):
        if kind_of(node) == 'soft_nms':
            overlap = node.get('iou_threshold', 0.5)
            options |= {f'{path}._delete_': True, f'{path}.type': 'nms'}
            options |= {f'{path}.iou_threshold': overlap}
    if not options:
        return f'{problem}; use a config whose test_cfg has operators with gradients only'
    return f'{problem}, soft-NMS; use NMS instead: {cfg_options(options)}'


def heats_at_shared_layer(
    explainers: Sequence[Explainer],
    prepared_images: Sequence[PreparedImage],
    predictions: Sequence[Prediction | None],
) -> tuple[str, list[np.ndarray | None]]:
    """Compute the heat of several models for the same object, at the same layer.

    This is the first of their `choices` where all models have heat, or else the first: by default
    the backbone's last output, or an earlier one (in SSD a detection depends on one level only).

    Args:
        explainers: one for each model.
        prepared_images: the image as each model gets it.
        predictions: the prediction of each model; None if it has none.

    Returns:
        The layer's name in the first model with a prediction; and each model's heat, or None.
    """
    rows = [
        row
        for row in zip(explainers, prepared_images, predictions, strict=True)
        if row[2] is not None
    ]
    names = list(rows[0][0].choices(rows[0][1]))
    count = min(len(explainer.choices(prepared)) for explainer, prepared, _ in rows)
    for choice in (*range(count), 0):
        heats = [
            None if prediction is None else explainer.heat(prepared, prediction, choice)
            for explainer, prepared, prediction in zip(
                explainers, prepared_images, predictions, strict=True
            )
        ]
        if all(heat is None or heat.any() for heat in heats):
            break
    return names[choice], heats


def gradcam_page(
    image: str,
    explainers: Sequence[Explainer],
    score: float = 0.3,
    class_name: str | None = None,
    count: int = 4,
    norm_in_box: bool = False,
) -> Figure:
    """Show Grad-CAM with a row for each detection and a column for each model.

    Args:
        image: path of an image file.
        explainers: one for each model; the detections of the first model are explained in all.
        score: detections of the first model with a lower score are left out.
        class_name: only detections of this class; for a classifier, the class to explain.
        count: maximum number of detections.
        norm_in_box: scale the heat to 0 to 1 inside the box, and show none outside.

    Raises:
        InputError: the image cannot be read, there is no detection above the score, a layer does
            not exist, or the models have different classes.
    """
    first = explainers[0].predictor
    check_matching_classes([explainer.predictor for explainer in explainers])
    prepared_images = [explainer.predictor.prepare(image) for explainer in explainers]
    predictions = [
        explainer.predictor.predict(prepared)
        for explainer, prepared in zip(explainers, prepared_images, strict=True)
    ]
    chosen = _choose(first, predictions[0], score, class_name, count, image)
    rows = []
    for wanted in track(chosen, 'explaining', transient=True):
        name = first.name_of(wanted.label)
        boxes = Boxes(np.zeros((0, 4)), [], [])
        if wanted.box is not None:
            boxes = Boxes(wanted.corners[None], [name], [BLUE])
        counterparts = [
            wanted,
            *(matching_prediction(others, wanted) for others in predictions[1:]),
        ]
        layer, heats = heats_at_shared_layer(explainers, prepared_images, counterparts)
        row = [
            Cell(prepared_images[0].picture, boxes, f'{name}\n{explainers[0].method} at {layer}')
        ]
        for explainer, prepared, counterpart, heat in zip(
            explainers, prepared_images, counterparts, heats, strict=True
        ):
            row.append(explained_cell(explainer, prepared, counterpart, heat, norm_in_box))
        rows.append(row)
    label = (
        'Grad-CAM of the score' if explainers[0].target == 'score' else 'Grad-CAM of the box size'
    )
    suffix = ' in the box' if norm_in_box else ''
    return sheet(rows, heat=f"{label}, relative to the image's maximum{suffix}")


def explained_cell(
    explainer: Explainer,
    prepared: PreparedImage,
    counterpart: Prediction | None,
    heat: np.ndarray | None,
    norm_in_box: bool = False,
) -> Cell:
    """The heat of a prediction, its box, its score and the share of the heat in the box; without a
    `counterpart`, which the model does not find, the picture alone."""
    empty = Boxes(np.zeros((0, 4)), [], [])
    if counterpart is None or heat is None:
        return Cell(prepared.picture, empty, f'{explainer.predictor.name}\nnot detected')
    title = f'{explainer.predictor.name}\nscore {float(counterpart.score):.3f}'
    if counterpart.box is None:
        return Cell(prepared.picture, empty, title, heat)
    share = inside(heat, counterpart.corners)
    area = area_share(heat.shape, counterpart.corners)
    in_image = f' in box ({area:.0%} of image)'
    caption = f'{share[0]:.0%} of heat{in_image}' if share else 'no heat at this layer'
    overlay = scaled_in_box(heat, counterpart.corners) if norm_in_box else heat
    boxes = Boxes(counterpart.corners[None], [''], [BLUE])
    return Cell(prepared.picture, boxes, f'{title}\n{caption}', overlay)


def _choose(
    predictor: Predictor,
    predictions: list[Prediction],
    score: float,
    class_name: str | None,
    count: int,
    image: str,
) -> list[Prediction]:
    if count < 1:
        raise InputError(f'--count {count} is too small; give 1 or more')
    of_class = ''
    if class_name is not None:
        label = predictor.label_of(class_name)
        predictions = [prediction for prediction in predictions if prediction.label == label]
        of_class = f' of {class_name}'
    if predictions and predictions[0].box is None:  # a classifier
        return predictions[:1] if class_name is not None else predictions[:count]
    chosen = [prediction for prediction in predictions if float(prediction.score) >= score]
    if not chosen:
        best = 'there are no detections'
        if predictions:
            best = f'the highest is {float(predictions[0].score):.3f}'
        raise InputError(
            f'{predictor.name} has no detection{of_class} in {image} with a score of {score:g} or '
            f'more ({best}); lower --score, or use another image'
        )
    return chosen[:count]
