"""A trained model and a picture that it looks at: what attention maps and Grad-CAM start from."""

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
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..checkpoints.loading import check_checkpoint, check_pretrained
from ..models.build import build_model
from ..models.layers.torch_private import drop_compiled_code
from ..utils.config import enter_scope, kind_of, near_hint
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few
from ..utils.mmengine_private import load_weights
from ..utils.run_config import ModelConfig
from ..utils.split_config import Split


@dataclass
class PreparedImage:
    """A picture as a person sees it and as the model does.

    Attributes:
        picture: (H, W, 3) uint8 RGB; the file, or what the pipeline cut out of it.
        data: a batch of one for `model(**data, mode='predict')`.
        size: height and width of the picture in the input, which is padded right and below.
    """

    picture: np.ndarray
    data: dict
    size: tuple[int, int]

    @classmethod
    def from_packed(cls, picture: np.ndarray, packed: dict, model: nn.Module) -> PreparedImage:
        """From a picture and what the config's pipeline packed of it."""
        preprocess: Any = model.data_preprocessor
        data = preprocess(pseudo_collate([packed]), False)
        sample = data['data_samples'][0]
        scale = sample.get('scale_factor', (1, 1))[::-1]
        scaled = [
            round(side * factor) for side, factor in zip(picture.shape[:2], scale, strict=True)
        ]
        shape = sample.img_shape[:2]  # with what the pipeline itself padded
        if any(side > limit + 1 for side, limit in zip(scaled, shape, strict=True)):  # it was cut
            cropped = packed['inputs'][:3, : shape[0], : shape[1]].expand(3, -1, -1)  # of grey, too
            picture = np.ascontiguousarray(cropped.permute(1, 2, 0).numpy()[..., ::-1])
            return cls(picture, data, tuple(shape))
        return cls(picture, data, tuple(map(min, scaled, shape)))

    def resize_to_picture(self, values: np.ndarray) -> np.ndarray:
        """Any (h, w) over the model's whole input -> (H, W) over the picture, float32."""
        height, width = self.data['inputs'].shape[2:]
        values = cv2.resize(values.astype(np.float32), (width, height))
        cropped = values[: self.size[0], : self.size[1]]
        return cv2.resize(cropped, self.picture.shape[1::-1])


@dataclass
class Prediction:
    """What a model says of a picture: a detection, or a class of a classifier.

    Attributes:
        label: number of the class.
        score: 0 to 1, a tensor, which may have a gradient.
        box: (4,) x1 y1 x2 y2 in pixels of the picture, likewise; None from a classifier.
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
        checkpoint: its weights, a path; None is the start of a training, with the pretrained
            weights that the config names.
        name: for captions; the config's file name where none is given.

    Raises:
        InputError: the config cannot be built, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | None = None, name: str | None = None) -> None:
        self.cfg = cfg
        self.name = name or Path(cfg.filename).stem
        self.model = build_model(cfg)
        self.trained = checkpoint is not None
        weights = check_checkpoint(checkpoint, 'checkpoint', self.model)
        meta: dict = {}
        if weights is None:
            check_pretrained(ModelConfig.from_cfg(cfg).pretrained)
            self.model.init_weights()
        else:
            load_weights(self.model, weights)
            meta = weights.get('meta', {}).get('dataset_meta') or {}
        self.classes = tuple(meta.get('classes') or meta.get('CLASSES') or _test_classes(cfg))
        self.model.to(check_device()[0]).eval()
        for module in self.model.modules():  # compiled code knows no hooks, no second backward
            drop_compiled_code(module)
        self._pipeline: Callable[[dict], dict] | None = None

    def name_of(self, label: int) -> str:
        """The class of that number, or the number itself where the classes are unknown."""
        return str(self.classes[label]) if label < len(self.classes) else f'class {label}'

    def label_of(self, name: str) -> int:
        """The number of a class by its name, by one of its names ('tench, Tinca tinca' has two),
        or by its number.

        Raises:
            InputError: there is none; near names are listed.
        """
        for label, class_name in enumerate(self.classes):
            if name == class_name or name in class_name.split(', '):
                return label
        if name.isdecimal() and (not self.classes or int(name) < len(self.classes)):
            return int(name)
        similar = difflib.get_close_matches(name, self.classes, 3, 0.5)
        if similar:
            hint = f'near: {first_few(similar)}'
        else:
            hint = f'it has {first_few(list(self.classes), 12)}'
        raise InputError(f'{self.name} knows no class {name!r}; {hint}')

    def prepare(self, path: str | Path) -> PreparedImage:
        """Read an image file as the config's test pipeline does.

        Raises:
            InputError: it is missing, or no image.
        """
        picture = read_image(path)
        if self._pipeline is None:
            if not self.cfg.get('test_dataloader'):
                raise InputError(
                    f'{self.cfg.filename} has no test_dataloader; its dataset.pipeline reads images'
                )
            enter_scope(self.cfg)
            transforms = get_test_pipeline_cfg(self.cfg)
            self._pipeline = Compose(
                [transform for transform in transforms if 'Annotations' not in kind_of(transform)]
            )
        packed = self._pipeline(dict(img_path=str(path), img_id=0))
        return PreparedImage.from_packed(picture, packed, self.model)

    def predict(self, prepared: PreparedImage) -> list[Prediction]:
        """Run the model: its detections by falling score, or a classifier's classes."""
        with torch.no_grad():
            return predictions_of(self.model(**prepared.data, mode='predict')[0])


def predictions_of(sample: BaseDataElement) -> list[Prediction]:
    """A detector's or a classifier's data sample -> what was found, by falling score.

    Raises:
        InputError: it holds neither upright boxes nor class scores.
    """
    if 'pred_instances' in sample:
        instances = sample.pred_instances
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        if boxes.shape[1] != 4:
            raise InputError(f'boxes of {boxes.shape[1]} numbers; upright ones of 4 are understood')
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
    predictions: Iterable[Prediction], reference: Prediction, min_iou: float = 0.5
) -> Prediction | None:
    """Of `predictions` that of the same class as `reference` with the highest IoU with its box.

    None where no box reaches the IoU `min_iou`.
    """
    candidates = [row for row in predictions if row.label == reference.label]
    if not candidates or reference.box is None:
        return candidates[0] if candidates else None
    boxes = torch.stack([row.box.detach() for row in candidates if row.box is not None])
    ious, index = bbox_overlaps(reference.box.detach()[None].to(boxes), boxes)[0].max(0)
    return candidates[int(index)] if ious >= min_iou else None


def check_matching_classes(predictors: Sequence[Predictor], classes: Sequence[str] = ()) -> None:
    """Check that models, and a data set where its classes are given, have the same classes.

    Raises:
        InputError: they differ; the first difference is named.
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
                f'{name} has other classes than {reference}: class {label} is {class_name}, not '
                f'{expected}; compare models of the same classes'
            )


def unique_name(name: str, taken: Collection[str]) -> str:
    """`name`, numbered where it is taken (the same config with other weights)."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f'{name} ({number})', number + 1
    return unique


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Raises:
        InputError: it is missing, or no image.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent
        files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
        hint = near_hint(path.name, files, 0.5)
        raise InputError(f'no image {path}{hint}; give the path of an image file')
    try:
        image = mmcv.imfrombytes(path.read_bytes(), flag='color')  # as mmdet's pipelines do
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise InputError(f'{path} cannot be read as an image; give a JPEG or PNG file')
    return np.ascontiguousarray(image[..., ::-1])


@contextmanager
def removing_hooks(handles: list) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_layers(predictor: Predictor, prepared: PreparedImage) -> dict[str, int | None]:
    """The modules that make one feature map in a pass, by name in the order in which they end.

    Returns:
        Name -> the number of the backbone's output that its map is, or None. Modules that run
        several times (heads shared among levels) are left out.
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
    """Of `feature_layers` those that make the backbone's outputs, the last output first; of several
    that hand on the same map the outermost. Else the last one of the backbone, or the first at all.
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
    """The module of that name, one of `feature_layers`.

    Raises:
        InputError: there is none, or it makes no single feature map; near names are listed.
    """
    if name in layers:
        return model.get_submodule(name)
    similar = difflib.get_close_matches(name, layers, 4, 0.4) or list(layers)[-4:]
    exists = name in dict(model.named_modules())
    reason = 'makes no feature map, or several' if exists else 'is no layer of this model'
    raise InputError(f'--layer {name} {reason}; near: {first_few(similar, 4)}')
