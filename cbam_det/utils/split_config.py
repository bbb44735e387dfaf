"""Typed descriptions of the splits of a config: training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch.utils.data import Sampler

from .config import kind_of, registered_class, walk
from .data_config import DataSet, is_local, leaf_datasets
from .errors import InputError
from .value_types import typed

# Both have the options of CocoMetric; FastCocoMetric is ours.
COCO_METRICS = ('CocoMetric', 'FastCocoMetric')


@dataclass(frozen=True)
class Evaluator:
    """A metric of a config.

    Attributes:
        place: its key path, such as 'val_evaluator' or 'test_evaluator.metrics.0'.
        name: the name of its class without the scope.
        ann_file: the annotation file that it reads itself, None if it reads none.
        seg_prefix: the folder of the segmentation maps that it reads itself, None if it reads none.
        is_local: whether it reads them from a disk of this machine.
        format_only: whether it only writes predictions, without need of ground truth.
        metrics: what it evaluates, such as 'bbox' or 'segm'.
        prefix: the prefix of the names of its metrics, None if unknown.
        proposal_nums: CocoMetric's option, None for its default.
        iou_thrs: CocoMetric's option, None for COCO's ten thresholds.
        use_mp_eval: CocoMetric's option, whether it evaluates in several processes.
        dataset_index: the index of its data set in a MultiDatasetsEvaluator, None for all.
    """

    place: str
    name: str = ''
    ann_file: str | None = None
    seg_prefix: str | None = None
    is_local: bool = True
    format_only: bool = False
    metrics: tuple[str, ...] = ()
    prefix: str | None = None
    proposal_nums: tuple[int, ...] | None = None
    iou_thrs: tuple[float, ...] | None = None
    use_mp_eval: bool = False
    dataset_index: int | None = None

    @classmethod
    def from_cfg(cls, place: str, node: dict, multi_dataset: bool = False) -> Evaluator:
        """Describe a metric of a config; `multi_dataset`: it is in a MultiDatasetsEvaluator."""
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
            seg_prefix=typed(node, 'seg_prefix', str | None, place),
            is_local=is_local(node),
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
        """Whether it has the options of CocoMetric."""
        return self.name in COCO_METRICS


@dataclass(frozen=True)
class Split:
    """The data of a config's training, validation or test.

    Attributes:
        name: 'train', 'val' or 'test'.
        batch_size: the batch size of one process.
        drop_last: whether the loader or its batch sampler leaves out an incomplete last batch.
        data_sets: its data set, or several that wrappers join.
        evaluators: its metrics, () for training.
    """

    name: str
    batch_size: int
    drop_last: bool
    data_sets: tuple[DataSet, ...]
    evaluators: tuple[Evaluator, ...]

    @classmethod
    def from_cfg(cls, cfg: Config, name: str) -> Split | None:
        """Describe a split of a merged config; None if the config has no such split."""
        place = f'{name}_dataloader'
        loader = typed(cfg, place, dict | None, '')
        if not loader:
            return None
        key = f'{name}_evaluator'
        evaluator = typed(cfg, key, dict | list[dict | BaseMetric] | None, '') or {}
        if 'metrics' in evaluator and registered_class(METRICS, kind_of(evaluator)):
            # MMEngine takes a dictionary with this key for an Evaluator, which has several metrics.
            raise InputError(
                f"{key}.metrics is unknown to {kind_of(evaluator)}; did you mean 'metric'?"
            )
        typed(loader, 'sampler', dict | Sampler | None, place)
        batches = typed(loader, 'batch_sampler', dict | Sampler | None, place)
        batch_options = batches if isinstance(batches, dict) else {}
        multi_dataset = (
            isinstance(evaluator, dict) and kind_of(evaluator) == 'MultiDatasetsEvaluator'
        )
        dataset = typed(loader, 'dataset', dict | list, place)
        return cls(
            name=name,
            batch_size=typed(loader, 'batch_size', int, place, 1),
            drop_last=bool(loader.get('drop_last') or batch_options.get('drop_last')),
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
        """The key of its loader, such as 'train_dataloader'."""
        return f'{self.name}_dataloader'

    @property
    def annotated(self) -> bool:
        """Whether it needs ground truth."""
        return not any(evaluator.format_only for evaluator in self.evaluators)
