"""One typed description of a run's config, built once, which the checks before a run read.

What is about keys as such stays a walk through the raw dictionaries: keys that are misspelt or that
nothing reads (`unread_keys`, `engine.names`, `engine.unknown_options`), the place of an error of a
build (`build_errors`), the options that lower memory (`engine.failures`), and what changes a config
(`datasets.validation.data_root`, `engine.devices`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mmengine.config import Config

from .config import CBAMS, PRETRAINED, detector, enter_scope, kind_of, near_hint, walk
from .errors import InputError, first_few
from .split_config import Split
from .value_types import typed


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


@dataclass(frozen=True)
class ModelConfig:
    """What the checks read of a config's model; paths are dotted, 'model.backbone.norm_cfg'.

    Attributes:
        types: by path the name of each part's type.
        predicts_masks: it has a part for masks.
        max_per_img: detections of an image that it gives at most, 0 where it does not say so.
        gates: by path, without the wrappers around the detector, the options of its CBAMs.
        pretrained: the weights that its `init_cfg` name.
    """

    types: dict[str, str] = field(default_factory=dict)
    predicts_masks: bool = False
    max_per_img: int = 0
    gates: dict[str, dict] = field(default_factory=dict)
    pretrained: tuple[Pretrained, ...] = ()

    @property
    def has_language_model(self) -> bool:
        """Whether it finds what a text names, as GLIP and Grounding DINO do."""
        return any(path.endswith('.language_model') for path in self.types)

    @classmethod
    def from_cfg(cls, cfg: Config) -> ModelConfig:
        """That of a merged config; an empty one where it has no model."""
        if not cfg.get('model'):
            return cls()
        inner = detector(cfg)
        nodes = dict(walk(inner, 'model'))
        test_cfg = nodes.get('model.test_cfg.rcnn') or nodes.get('model.test_cfg') or {}
        limit = test_cfg.get('max_per_img')
        return cls(
            types={path: kind_of(node) for path, node in walk(cfg.model, 'model')},
            predicts_masks=any(
                any(word in path for word in ('mask', 'segm'))
                or any(word in kind_of(node) for word in ('Mask', 'Ins'))
                for path, node in nodes.items()
            ),
            max_per_img=limit if isinstance(limit, int) else 0,
            gates={path: node for path, node in nodes.items() if kind_of(node) in CBAMS},
            pretrained=_pretrained(dict(walk(cfg.model, 'model'))),
        )


@dataclass(frozen=True)
class Settings:
    """A config's `preflight`, what it says to the checks before a run.

    Attributes:
        data_root: folder that replaces the data root of every data set, None for none.
        check_images: every image is decoded before the run.
        allow_shared_images: images may be in two splits, as in a first try on a few of them.
    """

    data_root: str | None = None
    check_images: bool = False
    allow_shared_images: bool = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> Settings:
        """Those of a merged config.

        Raises:
            InputError: one is unknown, or of another type.
        """
        settings = typed(cfg, 'preflight', dict | None, '') or {}
        known = [option.name for option in fields(cls)]
        for key in settings:
            if key not in known:
                raise InputError(
                    f'preflight.{key} is unknown{near_hint(key, known)}; it has {first_few(known)}'
                )
        return cls(
            typed(settings, 'data_root', str | None, 'preflight'),
            bool(typed(settings, 'check_images', bool | None, 'preflight')),
            bool(typed(settings, 'allow_shared_images', bool | None, 'preflight')),
        )


@dataclass(frozen=True)
class RunConfig:
    """A run's config.

    Attributes:
        filename: its file, None where it was made by a program.
        splits: by name those of 'train', 'val' and 'test' that it has.
        model: see `ModelConfig`.
        settings: see `Settings`.
        work_dir: folder of logs and checkpoints, '' where it has none.
        checkpoint_dir: where the checkpoints are written instead, None where they are not.
        load_from: weights, or a checkpoint to resume from.
        resume: it goes on with a training.
        has_launcher: it is for several processes.
        sync_bn: 'torch', 'mmcv' or None.
        conv_bn_eval: the modules of `efficient_conv_bn_eval`.
        monitored: the places where hooks name metrics, and these names.
        cfg: what it describes, for checks of the raw dictionaries.
    """

    filename: str | None
    splits: dict[str, Split]
    model: ModelConfig
    settings: Settings
    work_dir: str
    checkpoint_dir: str | None
    load_from: str | None
    resume: bool
    has_launcher: bool
    sync_bn: str | None
    conv_bn_eval: tuple[str, ...]
    monitored: tuple[tuple[str, str], ...]
    cfg: Config

    @classmethod
    def from_cfg(cls, cfg: Config) -> RunConfig:
        """That of a merged config, whose scope is entered, as names are looked up in it.

        Raises:
            InputError: a value is of a type that its readers cannot use, a data set has a key of
                mmdet 2.x or one that its class does not have, or a setting is unknown.
        """
        enter_scope(cfg)
        hooks = cfg.get('default_hooks') or {}
        hooks = {f'default_hooks.{name}': hook for name, hook in hooks.items()}
        custom_hooks = enumerate(cfg.get('custom_hooks') or ())
        hooks |= {f'custom_hooks.{number}': hook for number, hook in custom_hooks}
        hooks = {place: hook for place, hook in hooks.items() if isinstance(hook, dict)}
        conv_bn_eval = typed(cfg, 'efficient_conv_bn_eval', str | list | None, '') or ()
        splits = {name: Split.from_cfg(cfg, name) for name in ('train', 'val', 'test')}
        checkpoint = 'default_hooks.checkpoint'
        return cls(
            filename=cfg.filename,
            splits={name: split for name, split in splits.items() if split is not None},
            model=ModelConfig.from_cfg(cfg),
            settings=Settings.from_cfg(cfg),
            work_dir=cfg.get('work_dir') or '',
            checkpoint_dir=typed(hooks.get(checkpoint, {}), 'out_dir', str | None, checkpoint),
            load_from=cfg.get('load_from'),
            resume=bool(cfg.get('resume')),
            has_launcher=cfg.get('launcher', 'none') != 'none',
            sync_bn=cfg.get('sync_bn'),
            conv_bn_eval=(
                (conv_bn_eval,) if isinstance(conv_bn_eval, str) else tuple(conv_bn_eval)
            ),
            monitored=tuple(
                name for place, hook in hooks.items() for name in _monitored(place, hook)
            ),
            cfg=cfg,
        )


def _pretrained(nodes: dict[str, dict]) -> tuple[Pretrained, ...]:
    pretrained = []
    for path, node in nodes.items():
        if kind_of(node) in PRETRAINED and node.get('checkpoint'):
            part = path.removesuffix('.init_cfg')
            part_cfg = nodes.get(part, {})
            options = {
                key: part_cfg[key] for key in ('frozen_stages', 'norm_eval') if key in part_cfg
            }
            pretrained.append(Pretrained(part, typed(node, 'checkpoint', str, path), options))
    return tuple(pretrained)


def _monitored(place: str, hook: dict) -> list[tuple[str, str]]:
    """The metrics that a hook waits for, with the places of their names."""
    best = typed(hook, 'save_best', str | list[str] | None, place) or ()
    names = [
        (f'{place}.save_best', name)
        for name in ([best] if isinstance(best, str) else best)
        if name != 'auto'
    ]
    if kind_of(hook) == 'EarlyStoppingHook' and isinstance(hook.get('monitor'), str):
        names.append((f'{place}.monitor', hook['monitor']))
    return names
