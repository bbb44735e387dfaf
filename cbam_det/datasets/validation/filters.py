"""Check `filter_cfg`: its keys are known, and it does not leave images out of a score."""

from __future__ import annotations

import logging

from mmengine.logging import print_log

from ...utils.data_config import DataSet
from ...utils.errors import InputError, near_hint
from ...utils.source_words import source_words
from ...utils.split_config import Split
from ...utils.value_types import typed
from .config_layout import layout_of

READ_BY_MMDET = dict(filter_empty_gt=bool, min_size=float, bbox_min_size=float | None)
UPSTREAM = ('mmdet', 'mmengine', 'torch', 'typing', 'builtins')


def check_filters(split: Split) -> None:
    """Check the `filter_cfg` of a split's data sets.

    Raises:
        InputError: a key is unknown or has a value of another type, mmdet rejects it in a test, or
            the filter would leave images out of a score
            (https://github.com/open-mmlab/mmdetection/issues/8237).
    """
    for dataset in split.data_sets:
        _check_keys(split, dataset)
        filters = dataset.filter_cfg
        for key, wanted in READ_BY_MMDET.items():
            if key in filters and layout_of(dataset):
                typed(filters, key, wanted, f'{dataset.place}.filter_cfg')
        if dataset.test_mode and 'bbox_min_size' in filters and layout_of(dataset):
            raise InputError(
                f'filter_cfg.bbox_min_size of {dataset.name} is for training, and mmdet rejects it '
                'with test_mode=True; leave it out there'
            )
        leaves_out = filters.get('filter_empty_gt') or filters.get('min_size')
        if split.name != 'train' and leaves_out and not dataset.test_mode:
            raise InputError(
                f'{split.loader}: filter_cfg={filters} of {dataset.name} leaves images out of the '
                'evaluation; give test_mode=True, which disables the filter'
            )


def _check_keys(split: Split, dataset: DataSet) -> None:
    """Raise InputError for a key that neither mmdet nor the data set's own class reads.

    A subclass may read other keys, but its source does not show them if it passes `filter_cfg` on.
    So if it has its own `filter_data`, an unknown key only gives a warning.
    """
    kind = dataset.kind
    if kind is None:
        return
    own = [base for base in kind.__mro__ if base.__module__.partition('.')[0] not in UPSTREAM]
    words = source_words((), {base.__module__ for base in own})
    for key in dataset.filter_cfg:
        if key in READ_BY_MMDET or key in words:
            continue
        if any('filter_data' in vars(base) for base in own):
            near = near_hint(str(key), {*READ_BY_MMDET, *words}, 0.75)
            print_log(
                f'{split.loader}: nothing in the source of {dataset.name} reads '
                f'filter_cfg.{key}{near}',
                level=logging.WARNING,
            )
        else:
            raise InputError(
                f'filter_cfg.{key} of {dataset.name} is unknown and would be ignored; '
                f'mmdet knows {", ".join(READ_BY_MMDET)}{near_hint(str(key), READ_BY_MMDET)}'
            )
