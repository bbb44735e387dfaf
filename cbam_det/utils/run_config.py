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
        of_type: its class, or the name of it.
        root: the folder that its other paths are in, '.' where none is given.
        ann_file: the annotations below `root`, '' where it has none.
        prefixes: by mmdet's names, folders below `root`: `img` of COCO, `sub_data_root` of VOC.
        ann_subdir, img_subdir: VOC's folders below `sub_data_root`.
        metainfo_classes: what the config itself says of the classes, None where it says nothing.
        rules: mmdet's `filter_cfg`.
        test_mode: nothing is filtered.
        steps: the names of its pipeline's transforms.
        asked: what `LoadAnnotations` of the pipeline takes beside boxes: 'mask', 'seg'.
        needs_masks: the transforms of its pipeline that work on masks alone.
        fixed_size: a transform brings all images to one size.
        local: it lies on a disk of this machine.
        indices: the part of it that is read, None for all.
    """

    of_type: type | str
    root: Path
    ann_file: str = ''
    prefixes: dict[str, str] = field(default_factory=dict)
    ann_subdir: str = 'Annotations'
    img_subdir: str = 'JPEGImages'
    metainfo_classes: tuple[str, ...] | str | None = None
    rules: dict = field(default_factory=dict)
    test_mode: bool = False
    steps: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    needs_masks: tuple[str, ...] = ()
    fixed_size: bool = False
    local: bool = True
    indices: int | list[int] | None = None

    @classmethod
    def of(cls, node: dict) -> DataSet:
        """From a config's dictionary."""
        root, ann_file = node.get('data_root') or '', node.get('ann_file') or ''
        steps = [step for step in node.get('pipeline') or () if isinstance(step, dict)]
        return cls(
            of_type=node['type'],
            root=Path(root),
            ann_file=ann_file,
            prefixes=dict(node.get('data_prefix') or {}),
            ann_subdir=node.get('ann_subdir', cls.ann_subdir),
            img_subdir=node.get('img_subdir', cls.img_subdir),
            metainfo_classes=(node.get('metainfo') or {}).get('classes'),
            rules=dict(node.get('filter_cfg') or {}),
            test_mode=bool(node.get('test_mode')),
            steps=tuple(map(kind_of, steps)),
            asked=tuple(
                what
                for what in ('mask', 'seg')
                if any(
                    'Annotations' in kind_of(step) and step.get(f'with_{what}') for step in steps
                )
            ),
            needs_masks=tuple(
                kind_of(step)
                for step in steps
                if kind_of(step) == 'CopyPaste' or step.get('by_mask')
            ),
            fixed_size=any(map(_fixes_size, steps)),
            local='://' not in root and '://' not in ann_file,
            indices=node.get('indices'),
        )

    @property
    def name(self) -> str:
        """The name of its class, without a scope."""
        return kind_of(dict(type=self.of_type))

    @property
    def kind(self) -> type | None:
        """Its class, looked up in the scope of the config; None where no registry knows it."""
        if not isinstance(self.of_type, str):
            return self.of_type
        with DATASETS.switch_scope_and_registry(None) as registry:
            return registry.get(self.of_type)

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
        number: of the data set that it is for, in a MultiDatasetsEvaluator; None: for all.
    """

    place: str
    ann_file: str | None
    format_only: bool
    kind: str = ''
    metrics: tuple[str, ...] = ()
    number: int | None = None

    @classmethod
    def of(cls, place: str, node: dict, several: bool = False) -> Evaluator:
        """From a config's dictionary; `several`: of a MultiDatasetsEvaluator."""
        metrics = node.get('metric') or ()
        number = place.rpartition('.')[2]
        return cls(
            place,
            node.get('ann_file'),
            bool(node.get('format_only')),
            kind_of(node),
            (metrics,) if isinstance(metrics, str) else tuple(metrics),
            int(number) if several and number.isdigit() else None,
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
    def of(cls, cfg: Config, name: str) -> Split | None:
        """That of a merged config; None where it has none of the name."""
        loader = cfg.get(f'{name}_dataloader')
        if not loader:
            return None
        key = f'{name}_evaluator'
        given = cfg.get(key) or {}
        several = isinstance(given, dict) and kind_of(given) == 'MultiDatasetsEvaluator'
        return cls(
            name=name,
            batch_size=loader.get('batch_size', 1),
            data_sets=tuple(map(DataSet.of, leaf_datasets(loader['dataset']))),
            evaluators=tuple(
                Evaluator.of(place, node, several) for place, node in walk(given, key)
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
    found = []
    for path, node in nodes.items():
        if kind_of(node) in PRETRAINED and node.get('checkpoint'):
            part = path.removesuffix('.init_cfg')
            own = nodes.get(part, {})
            options = {key: own[key] for key in ('frozen_stages', 'norm_eval') if key in own}
            found.append(Pretrained(part, node['checkpoint'], options))
    return found


def _fixes_size(step: dict) -> bool:
    if kind_of(step) == 'Resize':
        return not step.get('keep_ratio')
    return kind_of(step) == 'Pad' and bool(step.get('size'))
