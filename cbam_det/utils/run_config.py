"""A typed description of a run's config, which is built once and read by the checks before a run.

Code about the keys themselves still walks through the raw dictionaries: misspelt and unread keys
(`unread_keys`, `engine.config_names`, `engine.unknown_options`), the place of a build error
(`build_errors`), options that lower memory (`engine.failures`), and changes of a config
(`datasets.validation.data_root`, `engine.devices`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mmengine.config import Config

from .config import CBAMS, PRETRAINED, detector, enter_scope, kind_of, walk
from .errors import InputError, first_few, near_hint
from .split_config import Split
from .value_types import typed


@dataclass(frozen=True)
class Pretrained:
    """Weights from which a part of a model starts.

    Attributes:
        part: the key path of the part, such as 'model.backbone'.
        source: a file, or what MMEngine downloads: a URL or a name like 'torchvision://resnet50'.
        options: the part's `frozen_stages` and `norm_eval`, if its config has them.
    """

    part: str
    source: str
    options: dict[str, object]


@dataclass(frozen=True)
class ModelConfig:
    """The properties of a config's model that the checks read.

    Attributes:
        types: the type name of each part, by key path ('model.backbone.norm_cfg').
        predicts_masks: whether a part predicts masks.
        max_per_img: the most detections per image, 0 if the config does not limit them.
        gates: the options of each CBAM, by key path without the wrappers around the detector.
        pretrained: the weights that the `init_cfg` of each part names.
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
        """Describe the model of a merged config; the description is empty if it has no model."""
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
    """The settings of the checks before a run, from a config's `preflight`.

    Attributes:
        data_root: a folder that replaces the data root of every data set, or None.
        check_images: whether every image is decoded before the run.
        allow_shared_images: whether two splits may share images, as in a first try on a few images.
    """

    data_root: str | None = None
    check_images: bool = False
    allow_shared_images: bool = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> Settings:
        """Read the settings of a merged config.

        Raises:
            InputError: a setting is unknown or has the wrong type.
        """
        settings = typed(cfg, 'preflight', dict | None, '') or {}
        known = [option.name for option in fields(cls)]
        for key in settings:
            if key not in known:
                hint = near_hint(str(key), known) or f'; choose from {first_few(known)}'
                raise InputError(f'preflight.{key} is unknown{hint}')
        return cls(
            typed(settings, 'data_root', str | None, 'preflight'),
            bool(typed(settings, 'check_images', bool | None, 'preflight')),
            bool(typed(settings, 'allow_shared_images', bool | None, 'preflight')),
        )


@dataclass(frozen=True)
class RunConfig:
    """A run's config.

    Attributes:
        filename: its file, None if a program made it.
        splits: its splits by name: 'train', 'val', 'test'.
        model: see `ModelConfig`.
        settings: see `Settings`.
        work_dir: the folder of logs and checkpoints, '' if it has none.
        checkpoint_dir: another folder for the checkpoints, or None.
        load_from: weights to start from, or a checkpoint to resume from.
        resume: whether it continues a training.
        has_launcher: whether a launcher starts it, in one or more processes.
        sync_bn: 'torch', 'mmcv' or None.
        conv_bn_eval: the modules in `efficient_conv_bn_eval`.
        monitored: the metrics that hooks wait for, as pairs of key path and name.
        cfg: the config itself, for checks of the raw dictionaries.
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
        """Describe a merged config. This enters its scope, in which names are looked up.

        Raises:
            InputError: a value has the wrong type, a data set has a key of mmdet 2.x or one that
                its class does not take, or a setting is unknown.
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
    """The metrics that a hook waits for, as pairs of key path and name."""
    best = typed(hook, 'save_best', str | list[str] | None, place) or ()
    names = [
        (f'{place}.save_best', name)
        for name in ([best] if isinstance(best, str) else best)
        if name != 'auto'
    ]
    if kind_of(hook) == 'EarlyStoppingHook' and isinstance(hook.get('monitor'), str):
        names.append((f'{place}.monitor', hook['monitor']))
    return names
