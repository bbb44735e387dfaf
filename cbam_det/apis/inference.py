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
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..checkpoints.loading import check_checkpoint, check_pretrained
from ..models.build import build_model
from ..utils.config import enter_scope, kind_of, nearest
from ..utils.environment import check_device
from ..utils.errors import InputError, first_few
from ..utils.run_config import Split


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
    def of(cls, picture: np.ndarray, packed: dict, model: nn.Module) -> PreparedImage:
        """From a picture and what the config's pipeline packed of it."""
        preprocess: Any = model.data_preprocessor
        data = preprocess(pseudo_collate([packed]), False)
        sample = data['data_samples'][0]
        scale = sample.get('scale_factor', (1, 1))[::-1]
        scaled = [round(side * by) for side, by in zip(picture.shape[:2], scale, strict=True)]
        seen = sample.img_shape[:2]  # with what the pipeline itself padded
        if any(side > most + 1 for side, most in zip(scaled, seen, strict=True)):  # it was cut
            raw = packed['inputs'][:3, : seen[0], : seen[1]].expand(3, -1, -1)  # of grey, too
            picture = np.ascontiguousarray(raw.permute(1, 2, 0).numpy()[..., ::-1])
            return cls(picture, data, tuple(seen))
        return cls(picture, data, tuple(map(min, scaled, seen)))

    def put(self, values: np.ndarray) -> np.ndarray:
        """Any (h, w) over the model's whole input -> (H, W) over the picture, float32."""
        height, width = self.data['inputs'].shape[2:]
        values = cv2.resize(values.astype(np.float32), (width, height))
        cut = values[: self.size[0], : self.size[1]]
        return cv2.resize(cut, self.picture.shape[1::-1])


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
        read = check_checkpoint(checkpoint, 'checkpoint', self.model)
        meta: dict = {}
        if read is None:
            check_pretrained(cfg)
            self.model.init_weights()
        else:
            _load_checkpoint_to_model(self.model, read)
            meta = read.get('meta', {}).get('dataset_meta') or {}
        self.classes = tuple(meta.get('classes') or meta.get('CLASSES') or _classes(cfg))
        self.model.to(check_device()[0]).eval()
        for one in self.model.modules():  # compiled code knows no hooks and no second backward
            one._compiled_call_impl = None
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
        for label, known in enumerate(self.classes):
            if name == known or name in known.split(', '):
                return label
        if name.isdecimal() and (not self.classes or int(name) < len(self.classes)):
            return int(name)
        near = difflib.get_close_matches(name, self.classes, 3, 0.5)
        hint = f'near: {first_few(near)}' if near else f'it has {first_few(list(self.classes), 12)}'
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
            steps = get_test_pipeline_cfg(self.cfg)
            kept = [one for one in steps if 'Annotations' not in kind_of(one)]
            self._pipeline = Compose(kept)
        packed = self._pipeline(dict(img_path=str(path), img_id=0))
        return PreparedImage.of(picture, packed, self.model)

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
        found = sample.pred_instances
        boxes = getattr(found.bboxes, 'tensor', found.bboxes)
        if boxes.shape[1] != 4:
            raise InputError(f'boxes of {boxes.shape[1]} numbers; upright ones of 4 are understood')
        rows = [
            Prediction(int(label), score, box)
            for label, score, box in zip(found.labels, found.scores, boxes, strict=True)
        ]
    elif 'pred_score' in sample:
        rows = [Prediction(label, score) for label, score in enumerate(sample.pred_score)]
    else:
        raise InputError(
            'this model predicts neither boxes nor classes; give a detector or a classifier'
        )
    return sorted(rows, key=lambda row: -float(row.score.detach()))


def same(
    found: Iterable[Prediction], wanted: Prediction, overlap: float = 0.5
) -> Prediction | None:
    """Of `found` the one that is `wanted`: of its class, and with the highest IoU with its box.

    None where no box reaches the IoU `overlap`.
    """
    rows = [row for row in found if row.label == wanted.label]
    if not rows or wanted.box is None:
        return rows[0] if rows else None
    boxes = torch.stack([row.box.detach() for row in rows if row.box is not None])
    values, place = bbox_overlaps(wanted.box.detach()[None].to(boxes), boxes)[0].max(0)
    return rows[int(place)] if values >= overlap else None


def same_classes(predictors: Sequence[Predictor], classes: Sequence[str] = ()) -> None:
    """Check that models, and a data set where its classes are given, have the same classes.

    Raises:
        InputError: they differ; the first difference is named.
    """
    sets = [(one.name, one.classes) for one in predictors if one.classes]
    sets = [('the data set', tuple(classes))] * bool(classes) + sets
    for name, own in sets[1:]:
        first, known = sets[0]
        if own != known:
            pairs = zip_longest(own, known, fillvalue='nothing')
            place, pair = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
            raise InputError(
                f'{name} has other classes than {first}: class {place} is {pair[0]}, not '
                f'{pair[1]}; compare models of the same classes'
            )


def unused(name: str, taken: Collection[str]) -> str:
    """`name`, numbered where it is taken (the same config with other weights)."""
    free, number = name, 2
    while free in taken:
        free, number = f'{name} ({number})', number + 1
    return free


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Raises:
        InputError: it is missing, or no image.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent
        files = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        near = nearest(path.name, files, 0.5)
        raise InputError(f'no image {path}{near}; give the path of an image file')
    try:
        image = mmcv.imfrombytes(path.read_bytes(), flag='color')  # as mmdet's pipelines do
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise InputError(f'{path} cannot be read as an image; give a JPEG or PNG file')
    return np.ascontiguousarray(image[..., ::-1])


@contextmanager
def hooked(handles: list) -> Iterator[None]:
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
    made: dict[str, list] = {}

    def note(name: str) -> object:
        return lambda module, args, output: made.setdefault(name, []).append(output)

    model = predictor.model
    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules() if name]
    with hooked(handles), torch.no_grad():
        model(**prepared.data, mode='predict')
    last = made.get('backbone', [()])[-1]
    handed = list(last) if isinstance(last, (tuple, list)) else [last]
    return {
        name: next((k for k, one in enumerate(handed) if one is outputs[0]), None)
        for name, outputs in made.items()
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].dim() == 4
    }


def default_layers(layers: dict[str, int | None]) -> list[str]:
    """Of `feature_layers` those that make the backbone's outputs, the last output first; of several
    that hand on the same map the outermost. Else the last one of the backbone, or the first at all.
    """
    outputs: dict[int, str] = {}
    for name, number in layers.items():
        if number is not None:
            outputs[number] = min(outputs.get(number, name), name, key=lambda one: one.count('.'))
    if outputs:
        return [outputs[number] for number in sorted(outputs, reverse=True)]
    inside = [name for name in layers if name.startswith('backbone.')]
    return inside[-1:] or list(layers)[:1]


def _classes(cfg: Config) -> tuple[str, ...]:
    split = Split.of(cfg, 'test')
    return split.data_sets[0].classes if split else ()


def module(model: nn.Module, name: str, layers: dict[str, int | None]) -> nn.Module:
    """The module of that name, one of `feature_layers`.

    Raises:
        InputError: there is none, or it makes no single feature map; near names are listed.
    """
    if name in layers:
        return model.get_submodule(name)
    near = difflib.get_close_matches(name, layers, 4, 0.4) or list(layers)[-4:]
    known = name in dict(model.named_modules())
    why = 'makes no feature map, or several' if known else 'is no layer of this model'
    raise InputError(f'--layer {name} {why}; near: {first_few(near, 4)}')
