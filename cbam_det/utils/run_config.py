"""What a run's config says of its data and weights, read once and typed; the checks go by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from .config import PRETRAINED, kind_of, walk
from .errors import InputError


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
    metainfo_classes: tuple[str, ...] | str | None = None
    filter_cfg: dict = field(default_factory=dict)
    test_mode: bool = False
    transforms: tuple[str, ...] = ()
    extra_annotations: tuple[str, ...] = ()
    fixed_size: bool = False
    is_local: bool = True
    indices: int | list[int] | None = None

    @classmethod
    def from_cfg(cls, node: dict) -> DataSet:
        """From a config's dictionary."""
        root, ann_file = node.get('data_root') or '', node.get('ann_file') or ''
        pipeline = [step for step in node.get('pipeline') or () if isinstance(step, dict)]
        return cls(
            class_or_name=node['type'],
            root=Path(root),
            ann_file=ann_file,
            prefixes=dict(node.get('data_prefix') or {}),
            ann_subdir=node.get('ann_subdir', cls.ann_subdir),
            img_subdir=node.get('img_subdir', cls.img_subdir),
            metainfo_classes=(node.get('metainfo') or {}).get('classes'),
            filter_cfg=dict(node.get('filter_cfg') or {}),
            test_mode=bool(node.get('test_mode')),
            transforms=tuple(map(kind_of, pipeline)),
            extra_annotations=tuple(
                kind
                for kind in ('mask', 'seg')
                if any(
                    'Annotations' in kind_of(step) and step.get(f'with_{kind}') for step in pipeline
                )
            ),
            fixed_size=any(map(_fixes_size, pipeline)),
            is_local='://' not in root and '://' not in ann_file,
            indices=node.get('indices'),
        )

    @property
    def name(self) -> str:
        """The name of its class, without a scope."""
        return kind_of(dict(type=self.class_or_name))

    @property
    def kind(self) -> type | None:
        """Its class, looked up in the scope of the config; None where no registry knows it."""
        if not isinstance(self.class_or_name, str):
            return self.class_or_name
        with DATASETS.switch_scope_and_registry(None) as registry:
            return registry.get(self.class_or_name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that it stands for, in label order; () where unknown.

        Raises:
            InputError: they are to be read from a file that is not there.
        """
        classes = self.metainfo_classes
        if classes is None:
            classes = getattr(self.kind, 'METAINFO', {}).get('classes', ())
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
        metrics = node.get('metric') or ()
        number = place.rpartition('.')[2]
        return cls(
            place,
            node.get('ann_file'),
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
        loader = cfg.get(f'{name}_dataloader')
        if not loader:
            return None
        key = f'{name}_evaluator'
        evaluator = cfg.get(key) or {}
        multi_dataset = (
            isinstance(evaluator, dict) and kind_of(evaluator) == 'MultiDatasetsEvaluator'
        )
        return cls(
            name=name,
            batch_size=loader.get('batch_size', 1),
            data_sets=tuple(map(DataSet.from_cfg, leaf_datasets(loader['dataset']))),
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


def leaf_datasets(dataset: dict) -> list[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if 'datasets' in dataset:
        return [leaf for inner in dataset['datasets'] for leaf in leaf_datasets(inner)]
    return leaf_datasets(dataset['dataset']) if 'dataset' in dataset else [dataset]


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
            pretrained.append(Pretrained(part, node['checkpoint'], options))
    return pretrained


def _fixes_size(transform: dict) -> bool:
    if kind_of(transform) == 'Resize':
        return not transform.get('keep_ratio')
    return kind_of(transform) == 'Pad' and bool(transform.get('size'))
