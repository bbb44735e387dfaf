"""What CBAMs attend to in a picture: their weights where they stand, and the page of them."""

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
from ..models.insertion import has_doubled_gates, named_cbams
from ..models.layers import CBAM
from ..utils.errors import InputError, first_few
from .figures import GateRow, attention_sheet


@dataclass
class Gates:
    """The weights of a CBAM in one of its passes; a gate that its order lacks is None.

    Attributes:
        name: path of the CBAM in the model.
        channel: (n, C) for n maps (one image, or the regions of a two-stage head).
        spatial: (n, H, W).
        identity: the gates lie in (0, 2), where 1 changes nothing; else in (0, 1).
    """

    name: str
    channel: np.ndarray | None
    spatial: np.ndarray | None
    identity: bool


def cbams(model: nn.Module) -> dict[str, CBAM]:
    """The CBAMs of a model by their path.

    Raises:
        InputError: there is none.
    """
    found = dict(named_cbams(model))
    if not found:
        raise InputError(
            'this model has no CBAM to look at; give the config with attention (a _cbam twin), or '
            'use gradcam, which needs none'
        )
    return found


def gates(model: nn.Module, data: dict, names: Iterable[str] | None = None) -> list[Gates]:
    """Run a model on a batch and return the weights of its CBAMs, in the order of their passes.

    Args:
        model: in eval mode, or its norms would count the batch.
        data: as its data preprocessor returns it.
        names: CBAMs to look at, None for all: paths, names as the page has them, or what these
            begin with (`layer4`); `*` stands for anything.

    Raises:
        InputError: the model has no CBAM, or none of such a name; near ones are listed.
    """
    found = cbams(model)
    if names is not None:
        found = {name: found[name] for name in _chosen(found, names)}
    seen: list[Gates] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(cbam: nn.Module, args: tuple[Tensor]) -> None:
            assert isinstance(cbam, CBAM)
            if not len(args[0]):  # a head without a region
                return
            weights = {kind: value.cpu().numpy() for kind, value in cbam.gates(args[0]).items()}
            channel, spatial = weights.get('channel'), weights.get('spatial')
            seen.append(
                Gates(
                    name,
                    None if channel is None else channel[:, :, 0, 0],
                    None if spatial is None else spatial[:, 0],
                    has_doubled_gates(cbam),
                )
            )

        return hook

    # Compiled code does not know of a hook that came later.
    compiled = {name: one._compiled_call_impl for name, one in found.items()}
    handles = [one.register_forward_pre_hook(look(name)) for name, one in found.items()]
    try:
        with removing_hooks(handles), torch.no_grad():
            for one in found.values():
                one._compiled_call_impl = None
            model(**data, mode='predict')
    finally:
        for name, one in found.items():
            one._compiled_call_impl = compiled[name]
    return seen


def _parts(path: str) -> list[str]:
    """'backbone.inserted.layer1/0/bn3.cbam' -> ['backbone', 'layer1', '0', 'bn3']."""
    return [part for part in re.split(r'[./]', path) if part not in ('inserted', 'cbam')]


def _chosen(found: Iterable[str], names: Iterable[str]) -> list[str]:
    """The paths that `names` choose, in their order in the model."""
    short = {path: '.'.join(_parts(path)[1:]) or path for path in found}
    chosen = set()
    for name in names:
        hits = [
            path
            for path, own in short.items()
            if any(fnmatchcase(text, form) for text in (path, own) for form in (name, f'{name}.*'))
        ]
        if not hits:
            near = difflib.get_close_matches(name, short.values(), 4, 0.3) or [*short.values()]
            raise InputError(
                f'--layer {name} is no CBAM of this model; it has {first_few(near, 4)}'
            )
        chosen.update(hits)
    return [path for path in short if path in chosen]


def attention_page(predictor: Predictor, image: str, names: Iterable[str] | None = None) -> Figure:
    """A contact sheet of the spatial gates over an image, then the channel gates of each stage.

    Args:
        predictor: a detector, or a classifier.
        image: path of an image file.
        names: CBAMs to show, None for all; see `gates`.

    Raises:
        InputError: no image, no CBAM, or none of such a name.
    """
    prepared = predictor.prepare(image)
    title = 'image' if predictor.trained else 'image; the model is untrained'
    return page(prepared, gates(predictor.model, prepared.data, names), title)


def page(prepared: PreparedImage, seen: list[Gates], title: str = 'image') -> Figure:
    """`attention_page` of weights that were taken already; `title` stands over the picture."""
    rows = []
    passes = Counter(one.name for one in seen)
    met: Counter[str] = Counter()
    for one in seen:
        met[one.name] += 1
        parts = _parts(one.name)
        number = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
        name = '.'.join(parts[1:]) or one.name
        name += f', pass {met[one.name]}' * (passes[one.name] > 1)
        spatial = one.spatial
        over_image = 'roi_head' not in parts  # which sees regions
        if spatial is not None:
            spatial = prepared.resize_to_picture(spatial[0]) if over_image else spatial.mean(0)
        channel = None if one.channel is None else one.channel.mean(0)
        rows.append(
            GateRow(
                name,
                '.'.join(parts[:number]),
                channel,
                spatial,
                over_image,
                most=2 if one.identity else 1,
            )
        )
    return attention_sheet(prepared.picture, rows, title)
