"""Conversions between the two starts with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cbam_det.checkpoints.convert import Converted, convert
from cbam_det.checkpoints.formats import OURS


def to_paper(state: Mapping[str, Tensor], options: Mapping) -> Converted:
    return convert(state, OURS, start='paper', options=options)


def to_identity(state: Mapping[str, Tensor], options: Mapping) -> Converted:
    return convert(state, OURS, start='identity', options=options)
