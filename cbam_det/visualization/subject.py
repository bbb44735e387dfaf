"""A trained model and a picture that it looks at: what attention maps and Grad-CAM start from."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..datasets.checks import config_classes, leaf_datasets
from ..environment import check_device
from ..errors import InputError, some
from ..preflight import build_model, check_checkpoint


@dataclass
class View:
    """A picture as a person sees it and as the model does.

    Attributes:
        picture: (H, W, 3) uint8 RGB; the file, or what the pipeline cut out of it.
        data: a batch of one for `model(**data, mode='predict')`.
        size: height and width of the picture in the input, which may be padded beyond it.
    """

    picture: np.ndarray
    data: dict
    size: tuple[int, int]

    @classmethod
    def of(cls, picture: np.ndarray, packed: dict, model: nn.Module) -> View:
        """From a picture and what the config's pipeline packed of it."""
        data = model.data_preprocessor(pseudo_collate([packed]), False)
        sample = data['data_samples'][0]
        height, width = sample.img_shape[:2]
        scale_width, scale_height = sample.get('scale_factor', (1, 1))
        gap = (picture.shape[0] * scale_height - height, picture.shape[1] * scale_width - width)
        if max(map(abs, gap)) > 1:  # it was not only scaled but cut
            raw = packed['inputs'][:, :height, :width]
            picture = np.ascontiguousarray(raw.permute(1, 2, 0).numpy()[..., ::-1])
        return cls(picture, data, (height, width))

    def put(self, values: np.ndarray) -> np.ndarray:
        """Any (h, w) over the model's whole input -> (H, W) over the picture, float32."""
        height, width = self.data['inputs'].shape[2:]
        values = cv2.resize(values.astype(np.float32), (width, height))
        cut = values[: self.size[0], : self.size[1]]
        return cv2.resize(cut, self.picture.shape[1::-1])


@dataclass
class Found:
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
        """The box, without gradient."""
        return self.box.detach().cpu().numpy()


class Subject:
    """A model with its config and its weights, in eval mode.

    Args:
        cfg: config of a detector, or of a classifier of mmpretrain.
        checkpoint: its weights, a path; None leaves the start of all weights.
        name: for captions; the config's file name where none is given.

    Raises:
        InputError: the config cannot be built, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | None = None, name: str | None = None) -> None:
        self.cfg = cfg
        self.name = name or Path(cfg.filename).stem
        self.model = build_model(cfg)
        read = check_checkpoint(checkpoint, 'checkpoint', self.model)
        meta = {}
        if read is not None:
            _load_checkpoint_to_model(self.model, read)
            meta = read.get('meta', {}).get('dataset_meta') or {}
        self.classes = tuple(meta.get('classes') or meta.get('CLASSES') or _classes(cfg))
        self.model.to(check_device()[0]).eval()
        self._pipeline = None

    def name_of(self, label: int) -> str:
        """The class of that number, or the number itself where the classes are unknown."""
        return str(self.classes[label]) if label < len(self.classes) else f'class {label}'

    def label_of(self, name: str) -> int:
        """The number of a class by its name, or by its number.

        Raises:
            InputError: there is none; near names are listed.
        """
        if name in self.classes:
            return self.classes.index(name)
        if name.isdigit() and int(name) < max(len(self.classes), 1):
            return int(name)
        near = difflib.get_close_matches(name, self.classes, 3, 0.3) or list(self.classes)
        raise InputError(f'{self.name} knows no class {name!r}; it has {some(near, 5)}')

    def see(self, path: str | Path) -> View:
        """Read an image file as the config's test pipeline does.

        Raises:
            InputError: it is missing, or no image.
        """
        picture = read_image(path)
        if self._pipeline is None:
            init_default_scope(self.cfg.get('default_scope', 'mmdet'))
            steps = get_test_pipeline_cfg(self.cfg)
            self._pipeline = Compose([one for one in steps if 'Annotations' not in one['type']])
        packed = self._pipeline(dict(img_path=str(path), img_id=0))
        return View.of(picture, packed, self.model)

    def look(self, view: View) -> list[Found]:
        """Run the model: its detections by falling score, or a classifier's classes."""
        with torch.no_grad():
            return findings(self.model(**view.data, mode='predict')[0])


@contextmanager
def attached() -> Iterator[None]:
    """mmdet's dense heads predict with the gradient of their maps, which they cut off otherwise."""

    def select(levels: Sequence[Tensor], number: int, detach: bool = True) -> list[Tensor]:
        return [level[number] for level in levels]

    name = 'select_single_mlvl'
    with ExitStack() as stack:
        for holder in [one for one in sys.modules.values() if name in vars(one)]:
            stack.enter_context(mock.patch.object(holder, name, select))
        yield


def findings(sample: object) -> list[Found]:
    """A detector's or a classifier's data sample -> what was found, by falling score.

    Raises:
        InputError: it holds neither detections nor class scores.
    """
    if 'pred_instances' in sample:
        found = sample.pred_instances
        boxes = getattr(found.bboxes, 'tensor', found.bboxes)
        rows = [
            Found(int(label), score, box)
            for label, score, box in zip(found.labels, found.scores, boxes, strict=True)
        ]
    elif 'pred_score' in sample:
        rows = [Found(label, score) for label, score in enumerate(sample.pred_score)]
    else:
        raise InputError(
            'this model predicts neither boxes nor classes; give a detector or a classifier'
        )
    return sorted(rows, key=lambda row: -float(row.score.detach()))


def same(found: Iterable[Found], wanted: Found, overlap: float = 0.5) -> Found | None:
    """Of `found` the one that is `wanted`: of its class, and with the highest IoU with its box.

    None where no box reaches the IoU `overlap`.
    """
    rows = [row for row in found if row.label == wanted.label]
    if not rows or wanted.box is None:
        return rows[0] if rows else None
    boxes = torch.stack([row.box.detach() for row in rows])
    values, place = bbox_overlaps(wanted.box.detach()[None].to(boxes), boxes)[0].max(0)
    return rows[int(place)] if values >= overlap else None


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Raises:
        InputError: it is missing, or no image.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent
        files = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, files, 3, 0.5)
        hint = f'; near: {some(near)}' if near else ''
        raise InputError(f'no image {path}{hint}; give the path of an image file')
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f'{path} cannot be read as an image ({error}); give a JPEG or PNG file'.replace(
                '\n', ' '
            )
        ) from None


@contextmanager
def hooked(handles: list) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_layers(subject: Subject, view: View) -> dict[str, bool]:
    """The modules that make one feature map in a pass, by name in the order in which they end.

    Returns:
        Name -> whether its map is the last that the backbone hands on. Modules that run several
        times (heads shared among levels) are left out.
    """
    made: dict[str, list] = {}

    def note(name: str) -> object:
        return lambda module, args, output: made.setdefault(name, []).append(output)

    model = subject.model
    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules() if name]
    with hooked(handles), torch.no_grad():
        model(**view.data, mode='predict')
    last = made.get('backbone', [None])[-1]
    last = last[-1] if isinstance(last, (tuple, list)) else last
    return {
        name: outputs[0] is last
        for name, outputs in made.items()
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].dim() == 4
    }


def default_layer(layers: dict[str, bool]) -> str:
    """Of `feature_layers` the one that makes the backbone's last feature map; of several that
    hand on the same map the outermost. Else the last one of the backbone, or the first at all.
    """
    last = [name for name, is_last in layers.items() if is_last]
    if last:
        return min(last, key=lambda name: name.count('.'))
    inside = [name for name in layers if name.startswith('backbone.')]
    return inside[-1] if inside else next(iter(layers))


def _classes(cfg: Config) -> tuple[str, ...]:
    if not cfg.get('test_dataloader'):
        return ()
    return config_classes(leaf_datasets(cfg.test_dataloader.dataset)[0]) or ()


def module(model: nn.Module, name: str, layers: dict[str, bool]) -> nn.Module:
    """The module of that name, one of `feature_layers`.

    Raises:
        InputError: there is none, or it makes no single feature map; near names are listed.
    """
    if name in layers:
        return model.get_submodule(name)
    near = difflib.get_close_matches(name, layers, 4, 0.4) or list(layers)[-4:]
    known = name in dict(model.named_modules())
    why = 'makes no feature map, or several' if known else 'is no layer of this model'
    raise InputError(f'--layer {name} {why}; near: {some(near, 4)}')
