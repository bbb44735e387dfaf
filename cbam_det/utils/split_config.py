"""What a config says of a training, validation or test, typed: its loader and its evaluators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch.utils.data import Sampler

from .config import kind_of, registered_class, walk
from .data_config import DataSet, leaf_datasets
from .errors import InputError
from .value_types import typed

# Both read COCO's options; the second is ours.
COCO_METRICS = ('CocoMetric', 'FastCocoMetric')


@dataclass(frozen=True)
class Evaluator:
    """A metric of a config.

    Attributes:
        place: its dotted path, 'val_evaluator' or 'test_evaluator.metrics.0'.
        name: of its class, without a scope.
        ann_file: the annotations that it reads itself, None where it reads none.
        format_only: it writes predictions down and needs no ground truth.
        metrics: what it is to evaluate, 'bbox' or 'segm'.
        prefix: what the names of its numbers begin with, None where unknown.
        proposal_nums: CocoMetric's, None where it has its own.
        iou_thrs: CocoMetric's, None for COCO's ten.
        use_mp_eval: CocoMetric's, evaluation in several processes.
        dataset_index: of the data set that it is for, in a MultiDatasetsEvaluator; None: for all.
    """

    place: str
    name: str = ''
    ann_file: str | None = None
    format_only: bool = False
    metrics: tuple[str, ...] = ()
    prefix: str | None = None
    proposal_nums: tuple[int, ...] | None = None
    iou_thrs: tuple[float, ...] | None = None
    use_mp_eval: bool = False
    dataset_index: int | None = None

    @classmethod
    def from_cfg(cls, place: str, node: dict, multi_dataset: bool = False) -> Evaluator:
        """From a config's dictionary; `multi_dataset`: of a MultiDatasetsEvaluator."""
        name, number = kind_of(node), place.rpartition('.')[2]
        metrics = typed(node, 'metric', str | list[str] | None, place) or ()
        coco = node if name in COCO_METRICS else {}
        limits = typed(coco, 'proposal_nums', list[int] | None, place)
        thresholds = typed(coco, 'iou_thrs', float | list[float] | np.ndarray | None, place)
        if isinstance(thresholds, (int, float)):
            thresholds = (thresholds,)
        default_prefix = getattr(registered_class(METRICS, name), 'default_prefix', None)
        return cls(
            place=place,
            name=name,
            ann_file=typed(node, 'ann_file', str | None, place),
            format_only=bool(node.get('format_only')),
            metrics=(metrics,) if isinstance(metrics, str) else tuple(metrics),
            prefix=node.get('prefix') or default_prefix,
            proposal_nums=None if limits is None else tuple(limits),
            iou_thrs=None if thresholds is None else tuple(thresholds),
            use_mp_eval=bool(coco.get('use_mp_eval')),
            dataset_index=int(number) if multi_dataset and number.isdigit() else None,
        )

    @property
    def is_coco(self) -> bool:
        return self.name in COCO_METRICS


@dataclass(frozen=True)
class Split:
    """The data of a config's training, validation or test.

    Attributes:
        name: 'train', 'val' or 'test'.
        batch_size: of one process.
        drop_last: images that fill no batch are left out.
        data_sets: one or several, joined by wrappers.
        evaluators: () in training.
    """

    name: str
    batch_size: int
    drop_last: bool
    data_sets: tuple[DataSet, ...]
    evaluators: tuple[Evaluator, ...]

    @classmethod
    def from_cfg(cls, cfg: Config, name: str) -> Split | None:
        """That of a merged config; None where it has none of the name."""
        place = f'{name}_dataloader'
        loader = typed(cfg, place, dict | None, '')
        if not loader:
            return None
        key = f'{name}_evaluator'
        evaluator = typed(cfg, key, dict | list[dict | BaseMetric] | None, '') or {}
        if 'metrics' in evaluator and registered_class(METRICS, kind_of(evaluator)):
            # MMEngine takes a dictionary with this key for an Evaluator, which has several metrics.
            raise InputError(f'{key}.metrics is unknown to {kind_of(evaluator)}; near: metric')
        typed(loader, 'sampler', dict | Sampler | None, place)
        typed(loader, 'batch_sampler', dict | Sampler | None, place)
        multi_dataset = (
            isinstance(evaluator, dict) and kind_of(evaluator) == 'MultiDatasetsEvaluator'
        )
        dataset = typed(loader, 'dataset', dict | list, place)
        return cls(
            name=name,
            batch_size=typed(loader, 'batch_size', int, place, 1),
            drop_last=bool(loader.get('drop_last')),
            data_sets=tuple(
                DataSet.from_cfg(leaf, path)
                for path, leaf in leaf_datasets(dataset, f'{place}.dataset')
            ),
            evaluators=tuple(
                Evaluator.from_cfg(place, node, multi_dataset)
                for place, node in walk(evaluator, key)
            ),
        )

    @property
    def loader(self) -> str:
        """The key of its loader, 'train_dataloader'."""
        return f'{self.name}_dataloader'

    @property
    def annotated(self) -> bool:
        """Whether its ground truth is needed."""
        return not any(evaluator.format_only for evaluator in self.evaluators)
