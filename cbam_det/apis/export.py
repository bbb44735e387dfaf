"""Export backbone, neck and dense head of a detector as one ONNX or TorchScript file.

Decoding of boxes and NMS are not in the file: `detect` runs mmdet's code for them on the outputs of
the file. In a two-stage detector the dense head is the RPN, and the feature maps of the neck are
outputs too, for the second stage. To export a whole detector as one file, use mmdeploy.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from mmdet.utils import get_test_pipeline_cfg
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..checkpoints.files import check_free
from ..models.build import data_preprocessor, image_channels
from ..utils.errors import InputError
from ..version import __version__
from .inference import Predictor, PreparedImage

if TYPE_CHECKING:
    from mmdet.models import BaseDetector

OPSET = 17
METADATA_KEY = 'cbam_det.json'  # the key of the metadata in a file
TOLERANCE = 1e-4  # relative to the largest value of an output


class DensePart(nn.Module):
    """Normalized images (N, C, H, W) -> the outputs of the dense head for all levels, as a tuple.

    Args:
        model: a detector of mmdet with a dense head (`bbox_head` or `rpn_head`).

    Raises:
        InputError: the model has no dense head.
    """

    def __init__(self, model: BaseDetector) -> None:
        super().__init__()
        head = getattr(model, 'bbox_head', None) or getattr(model, 'rpn_head', None)
        if head is None or not hasattr(model, 'extract_feat'):
            raise InputError(
                f'{type(model).__name__} has no dense head to export; use mmdeploy for it'
            )
        self.model, self.head = model, head
        self.two_stage = hasattr(model, 'roi_head')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class; in a two-stage detector the feature maps of the neck come first."""
        features = self.model.extract_feat(images)
        outputs = [level for maps in self.head(features) for level in maps]
        return (*(features if self.two_stage else ()), *outputs)

    @torch.no_grad()
    def names(self, images: Tensor) -> list[str]:
        """The names of the outputs of `forward`: `features_0`, `cls_scores_0`, `cls_scores_1`, ...

        They consist of the parameter of the head's `predict_by_feat`, and the level.
        """
        features = self.model.extract_feat(images)
        maps = dict(features=features) if self.two_stage else {}
        parameter_names = inspect.signature(self.head.predict_by_feat).parameters
        maps |= dict(zip(parameter_names, self.head(features), strict=False))
        return [f'{name}_{level}' for name, levels in maps.items() for level in range(len(levels))]


def export(predictor: Predictor, path: str | Path, size: tuple[int, int]) -> dict[str, float]:
    """Export the dense part of a detector, and compare the outputs of the file with the model.

    The file accepts any number, height and width of images. It is compared on two images of another
    size than the traced one.

    Args:
        predictor: the detector with its weights.
        path: .onnx, or .pt for TorchScript; existing files are not overwritten.
        size: height and width in pixels for tracing, multiples of the detector's padding.

    Returns:
        The largest difference for each output, relative to the largest value of that output.

    Raises:
        InputError: the path has another ending or exists, a package is missing, the head cannot be
            traced, or the file computes other outputs than the model.
    """
    path = Path(path)
    if path.suffix not in ('.onnx', '.pt'):
        raise InputError(f'{path} has an unknown ending; use .onnx, or .pt for TorchScript')
    check_free(path)
    part = DensePart(copy.deepcopy(predictor.model)).cpu().eval()
    height, width = size
    channels = image_channels(predictor.cfg)
    generator = torch.Generator().manual_seed(0)
    images, other_images = (
        torch.randn(shape, generator=generator)
        for shape in (
            (1, channels, height, width),
            (2, channels, height, width + _size_step(predictor)),
        )
    )
    with _export_errors(part, size):
        names = part.names(images)
    temporary = path.with_name(f'{path.stem}.{os.getpid()}{path.suffix}')
    try:
        write = _write_onnx if path.suffix == '.onnx' else _write_torchscript
        with _export_errors(part, size):
            write(part, images, names, _metadata(predictor, names), temporary)
        with torch.no_grad():
            expected = dict(zip(names, part(other_images), strict=True))
        computed = load_exported(temporary)(other_images)
        differences = {
            name: _relative_difference(computed[name], output) for name, output in expected.items()
        }
        too_large = {name: gap for name, gap in differences.items() if not gap <= TOLERANCE}
        if too_large:
            raise InputError(
                f'the outputs of the exported file differ from the model (relative differences '
                f'{too_large}); please report this with the config'
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return differences


@contextmanager
def _export_errors(part: DensePart, size: tuple[int, int]) -> Iterator[None]:
    """Raise an error of the detector's own code as an InputError of one line."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        height, width = size
        raise InputError(
            f'{type(part.head).__name__} cannot be exported at {height}x{width} pixels ({reason}); '
            'give a --size that is a multiple of its strides, or use mmdeploy, which rewrites heads'
        ) from error


def load_exported(path: str | Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Load an exported file as a function from images to outputs (onnxruntime or TorchScript)."""
    if Path(path).suffix == '.pt':
        module, metadata = _load_torchscript(path)
        return lambda images: dict(zip(metadata['outputs'], module(images), strict=True))
    session = _import_package('onnxruntime').InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs = session.run(None, {'images': images.numpy()})
        return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

    return run


def _load_torchscript(path: str | Path) -> tuple[torch.jit.ScriptModule, dict]:
    """An exported module and its metadata."""
    extra_files = {METADATA_KEY: ''}
    module = torch.jit.load(str(path), _extra_files=extra_files)
    return module, json.loads(extra_files[METADATA_KEY])


def read_metadata(path: str | Path) -> dict:
    """The metadata of an exported file.

    The keys are `classes`, `mean`, `std`, `bgr_to_rgb`, `pad_size_divisor`, `pipeline` (of the
    test), `outputs` and `cbam_det` (the version).
    """
    if Path(path).suffix == '.pt':
        return _load_torchscript(path)[1]
    model = _import_package('onnx').load(str(path))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return json.loads(metadata[METADATA_KEY])


def detect(
    predictor: Predictor, prepared: PreparedImage, outputs: Mapping[str, Tensor]
) -> InstanceData:
    """Decode the outputs for one image with mmdet, to boxes in pixels of the original image.

    Args:
        predictor: the one-stage detector that was exported.
        prepared: the image from `Predictor.prepare`; `prepared.data['inputs']` is the input of the
            exported file.
        outputs: the outputs of the exported file, by name.

    Raises:
        InputError: the detector has two stages.
    """
    part = DensePart(predictor.model)
    if part.two_stage:
        raise InputError(
            f'{predictor.name} has two stages, and its roi_head is not exported; run it with mmdet'
        )
    maps: dict[str, list[Tensor]] = {}
    for name, output in outputs.items():
        maps.setdefault(name.rpartition('_')[0], []).append(output)
    metas = [sample.metainfo for sample in prepared.data['data_samples']]
    return part.head.predict_by_feat(*maps.values(), batch_img_metas=metas, rescale=True)[0]


def _metadata(predictor: Predictor, names: Sequence[str]) -> str:
    preprocessor = data_preprocessor(predictor.cfg)
    keys = ('mean', 'std', 'bgr_to_rgb', 'pad_size_divisor')
    metadata = {key: preprocessor[key] for key in keys if key in preprocessor}
    cfg = predictor.cfg
    metadata['pipeline'] = get_test_pipeline_cfg(cfg) if cfg.get('test_dataloader') else []
    metadata |= dict(classes=predictor.classes, outputs=names, cbam_det=__version__)
    return json.dumps(metadata, default=str)


def _write_onnx(
    part: nn.Module, images: Tensor, names: list[str], metadata: str, path: Path
) -> None:
    onnx = _import_package('onnx')
    _import_package('onnxruntime')  # fail before the export, not after it
    axes = {0: 'number', 2: 'height', 3: 'width'}
    with warnings.catch_warnings(), torch.no_grad():
        # Warnings about tracing; the outputs of the file are compared later. The exporter based on
        # torch.export takes minutes for a detector.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            part,
            (images,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=['images'],
            output_names=names,
            dynamic_axes={'images': axes, **dict.fromkeys(names, axes)},
        )
    model = onnx.load(str(path))
    model.metadata_props.add(key=METADATA_KEY, value=metadata)
    onnx.save(model, str(path))


def _write_torchscript(
    part: nn.Module, images: Tensor, names: list[str], metadata: str, path: Path
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        module = torch.jit.trace(part, images, check_trace=False)
    content = io.BytesIO()  # of a path, torch reports a full disk as a RuntimeError
    torch.jit.save(module, content, _extra_files={METADATA_KEY: metadata})
    path.write_bytes(content.getbuffer())


def _relative_difference(computed: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite if the shapes differ."""
    if computed.shape != expected.shape:
        return float('inf')
    difference = (computed - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return difference.item()


def _import_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f'an .onnx file needs {name}: pip install onnx onnxruntime') from None


def _size_step(predictor: Predictor) -> int:
    """The number of pixels to add for another size that fits the strides."""
    return max(32, data_preprocessor(predictor.cfg).get('pad_size_divisor', 1))
