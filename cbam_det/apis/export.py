"""A detector's arithmetic as one file, ONNX or TorchScript: backbone, neck and dense head.

What comes after it, boxes from the maps and their suppression, is mmdet's Python: `detect` calls it
on the outputs of the file. Of a two-stage detector the dense head is the RPN, and the neck's maps
are outputs too, for the second stage. A whole detector in one file is the work of mmdeploy.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..checkpoints.files import check_free
from ..models.build import image_channels
from ..utils.errors import InputError
from ..version import __version__
from .inference import Predictor, PreparedImage

if TYPE_CHECKING:
    from mmdet.models import BaseDetector

OPSET = 17
ABOUT = 'cbam_det.json'  # the key of what a file says of itself
TOLERANCE = 1e-4  # of the largest number of an output


class DensePart(nn.Module):
    """(N, C, H, W) normalised images -> the maps of all levels, one after the other.

    Args:
        model: a detector of mmdet with a dense head (`bbox_head` or `rpn_head`).

    Raises:
        InputError: it has none.
    """

    def __init__(self, model: BaseDetector) -> None:
        super().__init__()
        head = getattr(model, 'bbox_head', None) or getattr(model, 'rpn_head', None)
        if head is None or not hasattr(model, 'extract_feat'):
            raise InputError(f'{type(model).__name__} has no dense head that could be exported')
        self.model, self.head = model, head
        self.two_stage = hasattr(model, 'roi_head')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class; with the neck's maps first where there is a second stage."""
        features = self.model.extract_feat(images)
        maps = [one for kind in self.head(features) for one in kind]
        return (*(features if self.two_stage else ()), *maps)

    @torch.no_grad()
    def names(self, images: Tensor) -> list[str]:
        """`features_0`, `cls_scores_0`, `cls_scores_1` ... in the order of `forward`: what the
        head's `predict_by_feat` calls them, and the level.
        """
        features = self.model.extract_feat(images)
        kinds = dict(features=features) if self.two_stage else {}
        called = inspect.signature(self.head.predict_by_feat).parameters
        kinds |= dict(zip(called, self.head(features), strict=False))
        return [f'{name}_{level}' for name, levels in kinds.items() for level in range(len(levels))]


def export(predictor: Predictor, path: str | Path, size: tuple[int, int]) -> dict[str, float]:
    """Write the dense part of a detector and compare what the file computes with the model.

    Number, height and width of the images stay open; the comparison is made with two images of
    another size than the traced one.

    Args:
        predictor: the detector with its weights.
        path: .onnx, or .pt for TorchScript; over no file that is there.
        size: height and width in pixels that are traced, multiples of the detector's padding.

    Returns:
        By output the largest difference, relative to the largest number of that output.

    Raises:
        InputError: another ending, a file that is there, a package that is missing, a head that
            cannot be traced, or a file that computes something else.
    """
    path = Path(path)
    if path.suffix not in ('.onnx', '.pt'):
        raise InputError(f'{path} has no ending that is known; give .onnx, or .pt for TorchScript')
    check_free(path)
    part = DensePart(copy.deepcopy(predictor.model)).cpu().eval()
    height, width = size
    channels = image_channels(predictor.cfg)
    generator = torch.Generator().manual_seed(0)
    traced, other = (
        torch.randn(shape, generator=generator)
        for shape in (
            (1, channels, height, width),
            (2, channels, height, width + _step(predictor)),
        )
    )
    try:
        names = part.names(traced)
    except Exception as error:
        raise InputError(_not_made(part, size, error)) from error
    temporary = path.with_name(f'{path.stem}.{os.getpid()}{path.suffix}')
    try:
        write = _write_onnx if path.suffix == '.onnx' else _write_torchscript
        try:
            write(part, traced, names, _about(predictor, names), temporary)
        except InputError:
            raise
        except Exception as error:
            raise InputError(_not_made(part, size, error)) from error
        with torch.no_grad():
            wanted = dict(zip(names, part(other), strict=True))
        found = runner(temporary)(other)
        gaps = {name: _gap(found[name], one) for name, one in wanted.items()}
        if far := {name: gap for name, gap in gaps.items() if not gap <= TOLERANCE}:
            raise InputError(
                f'the exported file does not compute what the model does, relative differences '
                f'{far}; please report this with the config'
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return gaps


def _not_made(part: DensePart, size: tuple[int, int], error: Exception) -> str:
    said = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
    height, width = size
    return (
        f'{type(part.head).__name__} cannot be exported at {height}x{width} pixels ({said}); give '
        'a --size that its strides divide, or take mmdeploy, which rewrites heads'
    )


def runner(path: str | Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from images to the outputs of an exported file, by onnxruntime or TorchScript."""
    if Path(path).suffix == '.pt':
        extra = {ABOUT: ''}
        net = torch.jit.load(str(path), _extra_files=extra)
        names = json.loads(extra[ABOUT])['outputs']
        return lambda images: dict(zip(names, net(images), strict=True))
    session = _package('onnxruntime').InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    names = [one.name for one in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs = session.run(None, {'images': images.numpy()})
        return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

    return run


def about(path: str | Path) -> dict:
    """What an exported file says of itself: `classes`, `mean`, `std`, `bgr_to_rgb`,
    `pad_size_divisor`, the test `pipeline`, `outputs`, `cbam_det`.
    """
    if Path(path).suffix == '.pt':
        extra = {ABOUT: ''}
        torch.jit.load(str(path), _extra_files=extra)
        return json.loads(extra[ABOUT])
    model = _package('onnx').load(str(path))
    return json.loads(next(one.value for one in model.metadata_props if one.key == ABOUT))


def detect(
    predictor: Predictor, prepared: PreparedImage, outputs: Mapping[str, Tensor]
) -> InstanceData:
    """The boxes that mmdet makes of one image's outputs, in pixels of the original image.

    Args:
        prepared: the image that went in, see `Predictor.prepare`; its `data['inputs']` hold
            the images.
        outputs: of a one-stage detector, by name.

    Raises:
        InputError: the detector has a second stage, which makes its boxes.
    """
    part = DensePart(predictor.model)
    if part.two_stage:
        raise InputError(f'{predictor.name} has two stages; its boxes come from its roi_head')
    kinds: dict[str, list[Tensor]] = {}
    for name, one in outputs.items():
        kinds.setdefault(name.rpartition('_')[0], []).append(one)
    metas = [sample.metainfo for sample in prepared.data['data_samples']]
    return part.head.predict_by_feat(*kinds.values(), batch_img_metas=metas, rescale=True)[0]


def _about(predictor: Predictor, names: Sequence[str]) -> str:
    given = predictor.cfg.model.get('data_preprocessor') or {}
    keys = ('mean', 'std', 'bgr_to_rgb', 'pad_size_divisor')
    told = {key: given[key] for key in keys if key in given}
    loader = predictor.cfg.get('test_dataloader') or {}
    told['pipeline'] = loader.get('dataset', {}).get('pipeline', [])
    told |= dict(classes=predictor.classes, outputs=names, cbam_det=__version__)
    return json.dumps(told, default=str)


def _write_onnx(part: nn.Module, images: Tensor, names: list[str], about: str, path: Path) -> None:
    onnx = _package('onnx')
    _package('onnxruntime')  # before the work, not after it
    axes = {0: 'number', 2: 'height', 3: 'width'}
    with warnings.catch_warnings(), torch.no_grad():
        # Of tracing alone; what the file computes is compared. The exporter that is based on
        # torch.export takes minutes for a detector.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            *(part, (images,), str(path)),
            dynamo=False,
            opset_version=OPSET,
            input_names=['images'],
            output_names=names,
            dynamic_axes={'images': axes, **dict.fromkeys(names, axes)},
        )
    model = onnx.load(str(path))
    model.metadata_props.add(key=ABOUT, value=about)
    onnx.save(model, str(path))


def _write_torchscript(
    part: nn.Module, images: Tensor, names: list[str], about: str, path: Path
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        net = torch.jit.trace(part, images, check_trace=False)
    torch.jit.save(net, str(path), _extra_files={ABOUT: about})


def _gap(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number; infinite for another shape."""
    if found.shape != wanted.shape:
        return float('inf')
    gap = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
    return gap.item()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f'an .onnx file needs {name}: pip install onnx onnxruntime') from None


def _step(predictor: Predictor) -> int:
    """Pixels by which another size differs that fits the strides."""
    return max(32, predictor.cfg.model.data_preprocessor.get('pad_size_divisor', 1))
