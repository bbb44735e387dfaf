"""What a run's config says of its data and weights, read once and typed; the checks go by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS
from torch.utils.data import Sampler

from .config import PRETRAINED, kind_of, registered_class, walk
from .data_keys import check_dataset_keys, check_metainfo, joined_sets
from .errors import InputError
from .value_types import typed, wrong_type

# Both read COCO's options; the second is ours.
COCO_METRICS = ('CocoMetric', 'FastCocoMetric')


@dataclass(frozen=True)
class DataSet:
    """A data set of a config, without its wrappers.

    Attributes:
        class_or_name: its class, or the name of it.
        root: the folder that its other paths are in, '.' where none is given.
        ann_file: the annotations below `root`, '' where it has none.
        prefixes: by mmdet's names, folders below `root`: `img` of COCO, `sub_data_root` of VOC.
        ann_subdir, img_subdir: VOC's folders below `sub_data_root`.
        metainfo_classes: what the config itself says of the classes, None where it says nothing.
        filter_cfg: mmdet's option of that name.
        test_mode: nothing is filtered.
        transforms: the names of its pipeline's transforms.
        extra_annotations: what `LoadAnnotations` reads beside boxes: 'mask', 'seg'.
        mask_transforms: the transforms of its pipeline that work on masks alone.
        fixed_size: a transform brings all images to one size.
        is_local: it lies on a disk of this machine.
        indices: the part of it that is read, None for all.
    """

    class_or_name: type | str
    root: Path
    ann_file: str = ''
    prefixes: dict[str, str] = field(default_factory=dict)
    ann_subdir: str = 'Annotations'
    img_subdir: str = 'JPEGImages'
    metainfo_classes: tuple[str, ...] | list[str] | str | None = None
    filter_cfg: dict = field(default_factory=dict)
    test_mode: bool = False
    transforms: tuple[str, ...] = ()
    extra_annotations: tuple[str, ...] = ()
    mask_transforms: tuple[str, ...] = ()
    fixed_size: bool = False
    is_local: bool = True
    indices: int | list[int] | None = None

    @classmethod
    def from_cfg(cls, node: dict, place: str = 'dataset') -> DataSet:
        """From a config's dictionary.

        Args:
            node: the dictionary.
            place: its dotted path, for messages.

        Raises:
            InputError: a key is of another type, of mmdet 2.x or unknown to the data set's class.
        """
        check_dataset_keys(node, place)
        root = typed(node, 'data_root', str | Path | None, place) or ''
        ann_file = node.get('ann_file') or ''
        prefix = typed(node, 'data_prefix', str | dict | None, place) or {}
        transforms = typed(node, 'pipeline', list[dict | Callable] | None, place) or ()
        pipeline = [transform for transform in transforms if isinstance(transform, dict)]
        return cls(
            class_or_name=typed(node, 'type', str | type, place),
            root=Path(root),
            ann_file=ann_file if isinstance(ann_file, str) else '',
            prefixes=dict(prefix) if isinstance(prefix, dict) else dict(img=prefix),  # mmpretrain's
            ann_subdir=typed(node, 'ann_subdir', str, place, cls.ann_subdir),
            img_subdir=typed(node, 'img_subdir', str, place, cls.img_subdir),
            metainfo_classes=check_metainfo(node, place).get('classes'),
            filter_cfg=dict(typed(node, 'filter_cfg', dict | None, place) or {}),
            test_mode=bool(node.get('test_mode')),
            transforms=tuple(map(kind_of, pipeline)),
            extra_annotations=tuple(
                kind
                for kind in ('mask', 'seg')
                if any(
                    'Annotations' in kind_of(step) and step.get(f'with_{kind}') for step in pipeline
                )
            ),
            mask_transforms=tuple(
                kind_of(step)
                for step in pipeline
                if kind_of(step) == 'CopyPaste' or step.get('by_mask')
            ),
            fixed_size=any(map(_fixes_size, pipeline)),
            is_local='://' not in f'{root} {ann_file}',
            indices=typed(node, 'indices', int | list[int] | None, place),
        )

    @property
    def name(self) -> str:
        """The name of its class, without a scope."""
        return kind_of(dict(type=self.class_or_name))

    @property
    def kind(self) -> type | None:
        """Its class, looked up in the scope of the config; None where no registry knows it."""
        return registered_class(DATASETS, self.class_or_name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that it stands for, in label order; () where unknown.

        Raises:
            InputError: they are to be read from a file that is not there.
        """
        classes = self.metainfo_classes
        if classes is None:
            classes = getattr(self.kind, 'METAINFO', {}).get('classes') or ()
        if isinstance(classes, str):
            path = Path(classes)
            if not path.is_file():
                raise InputError(
                    f'metainfo.classes={classes!r} is no file; give a tuple of names, '
                    "('cat',) with a comma where there is one"
                )
            classes = tuple(path.read_text(encoding='utf-8').split('\n'))
        return tuple(name for name in classes if name)

    @property
    def image_folder(self) -> Path:
        """Of COCO's images."""
        return self.root / (self.prefixes.get('img') or '')

    @property
    def voc_folders(self) -> tuple[Path, Path]:
        """Of VOC's annotations and of its images."""
        folder = self.root / (self.prefixes.get('sub_data_root') or '')
        return folder / self.ann_subdir, folder / self.img_subdir


@dataclass(frozen=True)
class Evaluator:
    """A metric of a config.

    Attributes:
        place: its dotted path, 'val_evaluator' or 'test_evaluator.metrics.0'.
        ann_file: the annotations that it reads itself, None where it reads none.
        format_only: it writes predictions down and needs no ground truth.
        kind: the name of its class.
        metrics: what it is to evaluate, 'bbox' or 'segm'.
        dataset_index: of the data set that it is for, in a MultiDatasetsEvaluator; None: for all.
    """

    place: str
    ann_file: str | None
    format_only: bool
    kind: str = ''
    metrics: tuple[str, ...] = ()
    dataset_index: int | None = None

    @classmethod
    def from_cfg(cls, place: str, node: dict, multi_dataset: bool = False) -> Evaluator:
        """From a config's dictionary; `multi_dataset`: of a MultiDatasetsEvaluator."""
        metrics = typed(node, 'metric', str | list[str] | None, place) or ()
        number = place.rpartition('.')[2]
        return cls(
            place,
            typed(node, 'ann_file', str | None, place),
            bool(node.get('format_only')),
            kind_of(node),
            (metrics,) if isinstance(metrics, str) else tuple(metrics),
            int(number) if multi_dataset and number.isdigit() else None,
        )


@dataclass(frozen=True)
class Split:
    """The data of a config's training, validation or test.

    Attributes:
        name: 'train', 'val' or 'test'.
        batch_size: of one process.
        data_sets: one or several, joined by wrappers.
        evaluators: () in training.
    """

    name: str
    batch_size: int
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
        typed(loader, 'sampler', dict | Sampler | None, place)
        typed(loader, 'batch_sampler', dict | Sampler | None, place)
        multi_dataset = (
            isinstance(evaluator, dict) and kind_of(evaluator) == 'MultiDatasetsEvaluator'
        )
        dataset = typed(loader, 'dataset', dict | list, place)
        return cls(
            name=name,
            batch_size=typed(loader, 'batch_size', int, place, 1),
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
    def annotated(self) -> bool:
        """Whether its ground truth is needed."""
        return not any(evaluator.format_only for evaluator in self.evaluators)


@dataclass(frozen=True)
class Pretrained:
    """Weights that a part of a model starts from.

    Attributes:
        part: its dotted path, 'model.backbone'.
        source: a file, or what MMEngine fetches: a URL, 'torchvision://resnet50'.
        options: `frozen_stages` and `norm_eval` of the part, those that its config has.
    """

    part: str
    source: str
    options: dict[str, object]


def leaf_datasets(dataset: object, place: str) -> list[tuple[str, dict]]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset, by their paths.

    Raises:
        InputError: one is no dictionary, or a list that has no wrapper.
    """
    if isinstance(dataset, (list, tuple)):
        raise joined_sets(place, [node for node in dataset if isinstance(node, dict)])
    if not isinstance(dataset, dict):
        raise wrong_type(place, dataset, dict)
    if 'datasets' in dataset:
        inner = typed(dataset, 'datasets', list, place)
        return [
            leaf
            for number, node in enumerate(inner)
            for leaf in leaf_datasets(node, f'{place}.datasets.{number}')
        ]
    if 'dataset' in dataset:
        return leaf_datasets(dataset['dataset'], f'{place}.dataset')
    return [(place, dataset)]


def pretrained_of(cfg: Config) -> list[Pretrained]:
    """What the `init_cfg` of a config's model name."""
    nodes = dict(walk(cfg.model, 'model'))
    pretrained = []
    for path, node in nodes.items():
        if kind_of(node) in PRETRAINED and node.get('checkpoint'):
            part = path.removesuffix('.init_cfg')
            part_cfg = nodes.get(part, {})
            options = {
                key: part_cfg[key] for key in ('frozen_stages', 'norm_eval') if key in part_cfg
            }
            pretrained.append(Pretrained(part, typed(node, 'checkpoint', str, path), options))
    return pretrained


def _fixes_size(transform: dict) -> bool:
    if kind_of(transform) == 'Resize':
        return not transform.get('keep_ratio')
    return kind_of(transform) == 'Pad' and bool(transform.get('size'))
