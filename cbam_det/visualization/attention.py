"""The attention weights of a model's CBAMs for an image, and a page that shows them."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..apis.inference import Predictor, PreparedImage, removing_hooks
from ..models.attention_modules import has_doubled_gates, named_cbams
from ..models.layers import CBAM
from ..models.layers.torch_private import RunUncompiled
from ..utils.errors import InputError, first_few
from .figures import GateRow, attention_sheet


@dataclass
class Gates:
    """The attention weights of a CBAM in one forward pass; None for a gate that it does not have.

    Attributes:
        name: path of the CBAM in the model.
        channel: (n, C) for n feature maps (one image, or the regions of a two-stage head).
        spatial: (n, H, W).
        identity: the weights are in (0, 2), and 1 has no effect; otherwise they are in (0, 1).
    """

    name: str
    channel: np.ndarray | None
    spatial: np.ndarray | None
    identity: bool


def cbams(model: nn.Module) -> dict[str, CBAM]:
    """The CBAMs of a model by their path.

    Raises:
        InputError: the model has none.
    """
    modules = dict(named_cbams(model))
    if not modules:
        raise InputError(
            'this model has no CBAM to show; give a config with CBAM, or use gradcam, which works '
            'without'
        )
    return modules


def gates(model: nn.Module, data: dict, names: Iterable[str] | None = None) -> list[Gates]:
    """Run a model on a batch and return the attention weights of its CBAMs in order of execution.

    Args:
        model: the model in eval mode (in train mode its BatchNorms would update their statistics).
        data: a batch from the model's data preprocessor.
        names: the CBAMs to return, by default all: paths, names as on the page, or beginnings of
            these up to a dot (`layer4`); `*` matches any text.

    Raises:
        InputError: the model has no CBAM, or no CBAM matches a name; similar names are listed.
    """
    modules = cbams(model)
    if names is not None:
        modules = {name: modules[name] for name in _select(modules, names)}
    passes: list[Gates] = []

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(cbam: nn.Module, args: tuple[Tensor]) -> None:
            assert isinstance(cbam, CBAM)
            if not len(args[0]):  # a head that got no regions
                return
            weights = {kind: value.cpu().numpy() for kind, value in cbam.gates(args[0]).items()}
            channel, spatial = weights.get('channel'), weights.get('spatial')
            passes.append(
                Gates(
                    name,
                    None if channel is None else channel[:, :, 0, 0],
                    None if spatial is None else spatial[:, 0],
                    has_doubled_gates(cbam),
                )
            )

        return hook

    handles: list = [RunUncompiled(cbam) for cbam in modules.values()]
    handles += [cbam.register_forward_pre_hook(make_hook(name)) for name, cbam in modules.items()]
    with removing_hooks(handles), torch.no_grad():
        model(**data, mode='predict')
    return passes


def _parts(path: str) -> list[str]:
    """'backbone.inserted.layer1/0/bn3.cbam' -> ['backbone', 'layer1', '0', 'bn3']."""
    return [part for part in re.split(r'[./]', path) if part not in ('inserted', 'cbam')]


def is_over_image(path: str) -> bool:
    """Whether the inputs of the CBAM with this path are images, not regions of them."""
    return 'roi_head' not in _parts(path)


def _select(paths: Iterable[str], names: Iterable[str]) -> list[str]:
    """The paths that match one of `names`, in the order of the model."""
    short_names = {path: '.'.join(_parts(path)[1:]) or path for path in paths}
    selected = set()
    for name in names:
        matches = [
            path
            for path, short_name in short_names.items()
            if any(
                fnmatchcase(text, pattern)
                for text in (path, short_name)
                for pattern in (name, f'{name}.*')
            )
        ]
        if not matches:
            near = difflib.get_close_matches(name, short_names.values(), 4, 0.3) or [
                *short_names.values()
            ]
            raise InputError(
                f'--layer {name} matches no CBAM of this model; choose from {first_few(near, 4)}'
            )
        selected.update(matches)
    return [path for path in short_names if path in selected]


def attention_page(predictor: Predictor, image: str, names: Iterable[str] | None = None) -> Figure:
    """Show the spatial weights of each CBAM over an image, and the channel weights of each stage.

    Args:
        predictor: a detector or a classifier.
        image: path of an image file.
        names: the CBAMs to show, by default all; see `gates`.

    Raises:
        InputError: the image cannot be read, the model has no CBAM, or no CBAM matches a name.
    """
    prepared = predictor.prepare(image)
    title = 'image' if predictor.trained else 'image; the model is untrained'
    return gates_page(prepared, gates(predictor.model, prepared.data, names), title)


def gates_page(prepared: PreparedImage, passes: list[Gates], title: str = 'image') -> Figure:
    """Like `attention_page`, for weights from `gates`; `title` is the title of the image."""
    return attention_sheet(prepared.picture, gate_rows(prepared, passes), title)


def gate_rows(prepared: PreparedImage, passes: list[Gates]) -> list[GateRow]:
    """The weights of each pass under a short name, the spatial ones over the picture."""
    rows = []
    pass_counts = Counter(gate.name for gate in passes)
    pass_numbers: Counter[str] = Counter()
    for gate in passes:
        pass_numbers[gate.name] += 1
        parts = _parts(gate.name)
        stage_end = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts))
        name = '.'.join(parts[1:]) or gate.name
        if pass_counts[gate.name] > 1:
            name += f', pass {pass_numbers[gate.name]}'
        spatial = gate.spatial
        over_image = is_over_image(gate.name)
        if spatial is not None:
            spatial = prepared.resize_to_picture(spatial[0]) if over_image else spatial.mean(0)
        channel = None if gate.channel is None else gate.channel.mean(0)
        rows.append(
            GateRow(
                name,
                '.'.join(parts[:stage_end]),
                channel,
                spatial,
                over_image,
                maximum=2 if gate.identity else 1,
            )
        )
    return rows
