"""Inference with a trained model, the basis of attention maps and Grad-CAM."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..checkpoints.loading import check_checkpoint, check_pretrained, trained_classes
from ..models.build import build_model
from ..models.layers.torch_private import drop_compiled_code
from ..utils.config import enter_scope, kind_of
from ..utils.environment import check_device
from ..utils.errors import InputError, did_you_mean, first_few
from ..utils.find_files import check_image_file
from ..utils.installation import tool_command
from ..utils.mmengine_private import load_weights
from ..utils.run_config import ModelConfig
from ..utils.split_config import Split


@dataclass
class PreparedImage:
    """A picture, and the model's input made from it.

    Attributes:
        picture: (H, W, 3) uint8 RGB; the image, or the crop that the pipeline made of it.
        data: a batch of one for `model(**data, mode='predict')`.
        size: height and width of the picture inside the input, which is padded right and below.
    """

    picture: np.ndarray
    data: dict
    size: tuple[int, int]

    @classmethod
    def from_packed(cls, picture: np.ndarray, packed: dict, model: nn.Module) -> PreparedImage:
        """From a picture, and the output of the config's pipeline for it."""
        preprocess: Any = model.data_preprocessor
        data = preprocess(pseudo_collate([packed]), False)
        sample = data['data_samples'][0]
        scale = sample.get('scale_factor', (1, 1))[::-1]
        scaled = [
            round(side * factor) for side, factor in zip(picture.shape[:2], scale, strict=True)
        ]
        shape = sample.img_shape[:2]  # includes padding by the pipeline
        is_cropped = any(side > limit + 1 for side, limit in zip(scaled, shape, strict=True))
        if is_cropped:
            crop = packed['inputs'][:3, : shape[0], : shape[1]]
            crop = crop.expand(3, -1, -1)  # of a grey image too
            picture = np.ascontiguousarray(crop.permute(1, 2, 0).numpy()[..., ::-1])
            return cls(picture, data, tuple(shape))
        return cls(picture, data, tuple(map(min, scaled, shape)))

    def resize_to_picture(self, values: np.ndarray) -> np.ndarray:
        """Resize values (h, w) over the model's whole input to (H, W) over the picture, float32."""
        height, width = self.data['inputs'].shape[2:]
        values = cv2.resize(values.astype(np.float32), (width, height))
        cropped = values[: self.size[0], : self.size[1]]
        return cv2.resize(cropped, self.picture.shape[1::-1])


@dataclass
class Prediction:
    """A prediction for a picture: a detection, or a class of a classifier.

    Attributes:
        label: number of the class.
        score: 0 to 1, a tensor that may have a gradient.
        box: (4,) x1, y1, x2, y2 in pixels of the picture, a tensor that may have a gradient; None
            from a classifier.
    """

    label: int
    score: Tensor
    box: Tensor | None = None

    @property
    def corners(self) -> np.ndarray:
        """The box of a detection, without gradient."""
        assert self.box is not None
        return self.box.detach().cpu().numpy()


class Predictor:
    """A model with its config and its weights, in eval mode.

    Args:
        cfg: config of a detector, or of a classifier of mmpretrain.
        checkpoint: path of the weights; None for the state at the start of a training, with the
            pretrained weights of the config.
        name: name for captions, by default the name of the config file, 'model' without one.

    Raises:
        InputError: the config cannot be built, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | None = None, name: str | None = None) -> None:
        self.cfg = cfg
        self.name = name or Path(cfg.filename or 'model').stem
        self.model = build_model(cfg)
        self.trained = checkpoint is not None
        classes: tuple[str, ...] = ()
        if checkpoint is None:
            check_pretrained(ModelConfig.from_cfg(cfg).pretrained)
            self.model.init_weights()
        else:
            weights = check_checkpoint(checkpoint, 'checkpoint', self.model)
            load_weights(self.model, weights)
            classes = trained_classes(weights)
        self.classes = classes or _test_classes(cfg)
        self.model.to(check_device()[0]).eval()
        for module in self.model.modules():  # compiled code ignores new hooks
            drop_compiled_code(module)
        self._pipeline: Callable[[dict], dict] | None = None

    def name_of(self, label: int) -> str:
        """The name of a class by its number; 'class N' if the classes are unknown."""
        return str(self.classes[label]) if label < len(self.classes) else f'class {label}'

    def label_of(self, name: str) -> int:
        """The number of a class by its name or number.

        If a class has several names ('tench, Tinca tinca'), each of them can be used.

        Raises:
            InputError: there is no such class; similar names are listed.
        """
        for label, class_name in enumerate(self.classes):
            if name == class_name or name in class_name.split(', '):
                return label
        if name.isdecimal() and (not self.classes or int(name) < len(self.classes)):
            return int(name)
        similar = difflib.get_close_matches(name, self.classes, 3, 0.5)
        if similar:
            hint = did_you_mean(similar)
        else:
            hint = f'choose from {first_few(list(self.classes), 12)}'
        raise InputError(f'{self.name} has no class {name!r}; {hint}')

    def prepare(self, path: str | Path) -> PreparedImage:
        """Read an image file with the config's test pipeline.

        Raises:
            InputError: the file is missing, or is not an image.
        """
        picture = read_image(path)
        if self._pipeline is None:
            self._pipeline = Compose(transforms_of_test(self.cfg))
        packed = self._pipeline(dict(img_path=str(path), img_id=0))
        return PreparedImage.from_packed(picture, packed, self.model)

    def predict(self, prepared: PreparedImage) -> list[Prediction]:
        """Run the model; returns its detections or classes by decreasing score."""
        with torch.no_grad():
            return predictions_of(self.model(**prepared.data, mode='predict')[0])


def transforms_of_test(cfg: Config) -> list[dict]:
    """The test pipeline of a config, without its annotations; MMEngine then uses its scope.

    Raises:
        InputError: the config has no test_dataloader.
    """
    if not cfg.get('test_dataloader'):
        raise InputError(
            f'{cfg.filename} has no test_dataloader; add one with a dataset.pipeline that reads '
            'images'
        )
    enter_scope(cfg)
    transforms = get_test_pipeline_cfg(cfg)
    return [transform for transform in transforms if 'Annotations' not in kind_of(transform)]


def predictions_of(sample: BaseDataElement) -> list[Prediction]:
    """The predictions in a data sample of a detector or a classifier, by decreasing score.

    Raises:
        InputError: the sample has neither axis-aligned boxes nor class scores.
    """
    if 'pred_instances' in sample:
        instances = sample.pred_instances
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        if boxes.shape[1] != 4:
            raise InputError(
                f'this model predicts boxes with {boxes.shape[1]} values; give a model with '
                'axis-aligned boxes (4 values)'
            )
        predictions = [
            Prediction(int(label), score, box)
            for label, score, box in zip(instances.labels, instances.scores, boxes, strict=True)
        ]
    elif 'pred_score' in sample:
        predictions = [Prediction(label, score) for label, score in enumerate(sample.pred_score)]
    else:
        raise InputError(
            'this model predicts neither boxes nor classes; give a detector or a classifier'
        )
    return sorted(predictions, key=lambda prediction: -float(prediction.score.detach()))


def matching_prediction(
    predictions: Iterable[Prediction], reference: Prediction
) -> Prediction | None:
    """The prediction with the class of `reference` and the highest IoU with its box.

    None if no box reaches an IoU of 0.5.
    """
    candidates = [row for row in predictions if row.label == reference.label]
    if not candidates or reference.box is None:
        return candidates[0] if candidates else None
    boxes = torch.stack([row.box.detach() for row in candidates if row.box is not None])
    ious, index = bbox_overlaps(reference.box.detach()[None].to(boxes), boxes)[0].max(0)
    return candidates[int(index)] if ious >= 0.5 else None


def check_matching_classes(predictors: Sequence[Predictor], classes: Sequence[str] = ()) -> None:
    """Check that all models, and a data set with `classes`, if given, have the same classes.

    Raises:
        InputError: the classes differ; the first difference is named.
    """
    class_lists = [
        (predictor.name, predictor.classes) for predictor in predictors if predictor.classes
    ]
    if classes:
        class_lists.insert(0, ('the data set', tuple(classes)))
    for name, own_classes in class_lists[1:]:
        reference, reference_classes = class_lists[0]
        if own_classes != reference_classes:
            pairs = enumerate(zip_longest(own_classes, reference_classes, fillvalue='nothing'))
            label, (class_name, expected) = next(row for row in pairs if row[1][0] != row[1][1])
            raise InputError(
                f'the classes of {name} differ from those of {reference}: class {label} is '
                f'{class_name}, not {expected}; give models and data with the same classes '
                'in the same order'
            )


def check_detector(predictor: Predictor) -> None:
    """Raise InputError if a model is not a detector."""
    if not isinstance(predictor.model, BaseDetector):
        raise InputError(
            f'{predictor.name} is not a detector; for a classifier, use '
            f'{tool_command("visualize", "gradcam", "IMAGE", "CONFIG", "CHECKPOINT")}'
        )


def unique_name(name: str, taken: Collection[str]) -> str:
    """`name`, with a number added if it is taken (the same config with other weights)."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f'{name} ({number})', number + 1
    return unique


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, or is not an image.
    """
    check_image_file(path)
    path = Path(path)
    try:
        image = mmcv.imfrombytes(path.read_bytes(), flag='color')  # as mmdet's pipelines do
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise InputError(f'{path} cannot be read as an image; give a JPEG or PNG file')
    return np.ascontiguousarray(image[..., ::-1])


@contextmanager
def removing_hooks(handles: list) -> Iterator[None]:
    """Remove hooks at the end of the context."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_layers(predictor: Predictor, prepared: PreparedImage) -> dict[str, int | None]:
    """The modules that output one feature map in a forward pass, in the order of execution.

    Returns:
        Name -> index of the backbone's output that this feature map is, or None. Modules that run
        several times (heads that are shared by all levels) are left out.
    """
    outputs: dict[str, list] = {}

    def record(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        return lambda module, args, output: outputs.setdefault(name, []).append(output)

    model = predictor.model
    handles = [
        module.register_forward_hook(record(name)) for name, module in model.named_modules() if name
    ]
    with removing_hooks(handles), torch.no_grad():
        model(**prepared.data, mode='predict')
    backbone_maps = outputs.get('backbone', [()])[-1]
    if not isinstance(backbone_maps, (tuple, list)):
        backbone_maps = [backbone_maps]
    return {
        name: next(
            (k for k, feature_map in enumerate(backbone_maps) if feature_map is maps[0]), None
        )
        for name, maps in outputs.items()
        if len(maps) == 1 and isinstance(maps[0], Tensor) and maps[0].dim() == 4
    }


def default_layers(layers: dict[str, int | None]) -> list[str]:
    """Choose the `feature_layers` that output the backbone's feature maps, the last one first.

    If several modules return the same feature map, the outermost is chosen. If there is none, it is
    the last layer of the backbone, or else the first layer.
    """
    outputs: dict[int, str] = {}
    for name, number in layers.items():
        if number is not None:
            earlier = outputs.get(number, name)
            outputs[number] = min(earlier, name, key=lambda layer: layer.count('.'))
    if outputs:
        return [outputs[number] for number in sorted(outputs, reverse=True)]
    in_backbone = [name for name in layers if name.startswith('backbone.')]
    return in_backbone[-1:] or list(layers)[:1]


def _test_classes(cfg: Config) -> tuple[str, ...]:
    split = Split.from_cfg(cfg, 'test')
    return split.data_sets[0].classes if split else ()


def layer_module(model: nn.Module, name: str, layers: dict[str, int | None]) -> nn.Module:
    """The module with this name, one of `feature_layers`.

    Raises:
        InputError: there is no such module, or it does not output one feature map; similar names
            are listed.
    """
    if name in layers:
        return model.get_submodule(name)
    similar = difflib.get_close_matches(name, layers, 4, 0.4) or list(layers)[-4:]
    exists = name in dict(model.named_modules())
    reason = 'does not output exactly one feature map' if exists else 'is not in this model'
    raise InputError(f'--layer {name} {reason}; {did_you_mean(similar)}')
