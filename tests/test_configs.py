"""Every config of the repository: it builds, trains a step, and twins differ in attention alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from cbam_det import CBAM
from cbam_det.environment import import_mmdet

from .conftest import CONFIGS

import_mmdet()
LEAVES = sorted(path.stem for path in CONFIGS.glob('*.py'))
FRAGMENTS = sorted(path.stem for path in (CONFIGS / '_base_/attention').glob('*.py'))
# What the tables of the paper call each fragment, and the options that make it.
ABLATIONS = {
    'cbam': {},
    'cbam_basic': {},
    'cbam_k3': dict(kernel_size=3),
    'cbam_conv_k3': dict(spatial_pools='conv', kernel_size=3),
    'cbam_conv_k7': dict(spatial_pools='conv'),
    'channel': dict(order='channel'),
    'channel_max': dict(order='channel', pools=('max',)),
    'parallel': dict(order='parallel'),
    'se': dict(order='channel', pools=('avg',)),
    'spatial_channel': dict(order='spatial-channel'),
}


def train_step(
    model_cfg: dict, optim_cfg: dict, size: int = 64
) -> tuple[torch.nn.Module, dict, dict]:
    """One step of the whole detector on random images: the model, its losses, its old weights."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model_cfg).train()
        optim = build_optim_wrapper(model, optim_cfg)
        sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1])
        )
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        losses = model.train_step(dict(inputs=[image] * 2, data_samples=[sample] * 2), optim)
    return model, losses, before


def without_pretrained(cfg: Config) -> Config:
    cfg.model.backbone.init_cfg = None  # weights that would have to be fetched
    return cfg


@pytest.mark.parametrize('leaf', LEAVES)
def test_every_leaf_builds_and_trains_a_step(leaf):
    cfg = without_pretrained(Config.fromfile(CONFIGS / f'{leaf}.py'))
    model, losses, before = train_step(cfg.model, cfg.optim_wrapper)
    assert torch.isfinite(losses['loss']) and losses['loss'] > 0
    found = [module for module in model.modules() if isinstance(module, CBAM)]
    blocks = 8 if 'r18' in leaf else 16
    assert len(found) == (blocks if '_cbam' in leaf or '_se' in leaf else 0)
    after = dict(model.named_parameters())
    for path in (name for name, module in model.named_modules() if isinstance(module, CBAM)):
        frozen = cfg.model.backbone.frozen_stages >= 1 and '.layer1.' in path
        own = [name for name in after if name.startswith(f'{path}.')]
        assert all(after[name].requires_grad != frozen for name in own)
        for gate in {name.split('cbam.')[1].split('.')[0] for name in own}:
            moved = [not torch.equal(before[name], after[name]) for name in own if gate in name]
            assert any(moved) != frozen, f'{path}.{gate}'


@pytest.mark.parametrize('fragment', sorted(set(FRAGMENTS) - {'cbam_basic'}))
def test_every_fragment_is_the_ablation_that_it_names_and_trains(fragment):
    """A step of the small detector with the fragment in place of CBAM."""
    plugins = Config.fromfile(CONFIGS / f'_base_/attention/{fragment}.py').plugins
    options = dict(plugins[0]['cfg'])
    assert options.pop('type') == 'CBAM'
    assert options == ABLATIONS[fragment]
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.model.backbone.plugins = plugins
    model, losses, _ = train_step(cfg.model, cfg.optim_wrapper)
    assert torch.isfinite(losses['loss'])
    assert sum(isinstance(module, CBAM) for module in model.modules()) == 16


def test_every_ablation_of_the_paper_has_a_fragment():
    assert sorted(ABLATIONS) == FRAGMENTS


TWINS = [
    (leaf, leaf.replace(f'_{name}', ''))
    for leaf in LEAVES
    for name in ('cbam', 'se')
    if f'_{name}' in leaf and leaf.replace(f'_{name}', '') in LEAVES
]


@pytest.mark.parametrize(('leaf', 'baseline'), TWINS)
def test_twin_differs_from_its_baseline_in_the_attention_alone(leaf, baseline):
    ours = Config.fromfile(CONFIGS / f'{leaf}.py').to_dict()
    theirs = Config.fromfile(CONFIGS / f'{baseline}.py').to_dict()
    backbone = ours['model']['backbone']
    plugins = backbone.pop('plugins')
    assert plugins == ours.pop('plugins')
    if backbone['type'] == 'WithPlugins':
        backbone['type'] = backbone.pop('base_type')
    assert ours.pop('custom_imports') == dict(imports=['cbam_det'])
    assert ours == theirs


def test_every_leaf_with_attention_has_its_baseline_but_those_named_here():
    with_attention = {leaf for leaf in LEAVES if '_cbam' in leaf or '_se' in leaf}
    assert with_attention - {leaf for leaf, _ in TWINS} == {'faster_rcnn_r50_cbam_digits_voc'}


def test_full_leaf_is_mmdets_own_config():
    ours = Config.fromfile(CONFIGS / 'faster_rcnn_r50.py').to_dict()
    theirs = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').to_dict()
    assert {key: drop_scope(value) for key, value in ours.items()} == theirs


def drop_scope(node):
    """mmengine notes the package in what it takes from `mmdet::`."""
    if isinstance(node, dict):
        return {key: drop_scope(value) for key, value in node.items() if key != '_scope_'}
    return [drop_scope(item) for item in node] if isinstance(node, list) else node


def test_quarter_width_keeps_the_architecture():
    """The digits' detector has the modules of the full one, and a quarter of its channels."""
    full = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py').model
    small = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py').model
    full.neck.norm_cfg = small.neck.norm_cfg  # the norm of the neck is the one addition
    with DefaultScope.overwrite_default_scope('mmdet'):
        one, other = MODELS.build(full), MODELS.build(small)
    assert [name for name, _ in one.named_modules()] == [name for name, _ in other.named_modules()]
    assert (
        other.backbone.layer4[0].conv3.out_channels * 4 == one.backbone.layer4[0].conv3.out_channels
    )


def test_ablation_by_an_option_of_the_command_line():
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    cfg.merge_from_dict({'model.backbone.plugins.0.cfg.order': 'parallel'})
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert {module.order for module in model.modules() if isinstance(module, CBAM)} == {'parallel'}


def test_config_registers_the_plugin_for_mmdets_own_tools():
    """`custom_imports` alone makes CBAM known, with no tool of ours."""
    code = (
        'from mmengine.config import Config; from mmengine.registry import MODELS; import sys; '
        f'Config.fromfile({str(CONFIGS / "faster_rcnn_r50_cbam.py")!r}); '
        'sys.exit(MODELS.get("CBAM") is None)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
