"""All configs build and train a step, and differ from their baseline in the attention alone."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

from cbam_det import CBAM
from cbam_det.datasets.validation.config import check_options
from cbam_det.engine import preflight
from cbam_det.models.build import build_model
from cbam_det.models.compat import fix_ssd_heads
from cbam_det.utils.config import walk
from cbam_det.utils.run_config import RunConfig
from cbam_det.utils.split_config import Split

from ..conftest import CONFIGS, in_process

first_base = in_process('benchmarks.configs').module.first_base
NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))
FRAGMENTS = sorted(path.stem for path in (CONFIGS / '_base_/attention').glob('*.py'))
# Fragment -> its options, for the tables of the paper.
ABLATIONS = {
    'cbam': {},
    'cbam_k3': dict(kernel_size=3),
    'cbam_conv_k3': dict(spatial_pools='conv', kernel_size=3),
    'cbam_conv_k7': dict(spatial_pools='conv'),
    'channel': dict(order='channel'),
    'channel_max': dict(order='channel', pools=('max',)),
    'parallel': dict(order='parallel'),
    'se': dict(order='channel', pools=('avg',)),
    'spatial_channel': dict(order='spatial-channel'),
}
OTHER_FRAGMENTS = {'cbam_compiled': dict(compile=True)}


# Number of CBAMs by a part of the config's name.
BLOCKS = {
    'mobilenetv2_cbam_neck': 5,
    'stairnet': 6,
    'mobilenetv2': 14,
    'ssd300': 6,
    'ssd512': 7,
    'rtmdet': 4,
    'r18': 8,
    'r50': 16,
    '101': 33,
}
FIRST_STAGE = {'r18': 2, 'r50': 3, '101': 3}  # frozen and without attention, but in ATTENDED
ATTENDED = ('digits', 'half', 'c4')


def image_size(name: str) -> int:
    """The height and width of the smallest images that the config's neck can process."""
    return 300 if 'ssd' in name or 'stairnet' in name else 64


def expected_cbams(name: str) -> int:
    if '_cbam' not in name and '_se' not in name:
        return 0
    frozen = {} if any(part in name for part in ATTENDED) else FIRST_STAGE
    return next(count - frozen.get(part, 0) for part, count in BLOCKS.items() if part in name)


def train_step(
    model_cfg: dict, optim_cfg: dict, size: int = 64
) -> tuple[torch.nn.Module, dict, dict]:
    """Train a detector for a step on random images; returns model, losses and old weights."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model_cfg).train()
        model.init_weights()
        optim = build_optim_wrapper(model, optim_cfg)
        sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1])
        )
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        losses = model.train_step(dict(inputs=[image] * 2, data_samples=[sample] * 2), optim)
    return model, losses, before


def scores_depend_on_the_batch(cfg: Config) -> bool:
    """Whether test images of different sizes are padded in a batch."""
    split = Split.from_cfg(cfg, 'test')
    same_sizes = ('data/digits', 'data/BCCD')
    one_size = all(data.has_fixed_size or str(data.root) in same_sizes for data in split.data_sets)
    return split.batch_size > 1 and not one_size


class Features(torch.nn.Module):
    """The part of a detector before NMS, as a function of the image."""

    def __init__(self, detector: torch.nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = self.detector.extract_feat(image)
        shared = getattr(getattr(self.detector, 'roi_head', None), 'shared_head', None)
        head = getattr(self.detector, 'rpn_head', None) or self.detector.bbox_head
        stage = [shared(features[-1])] if shared is not None else []
        return [*features, *stage, *(level for output in head(features) for level in output)]


def quick(cfg: Config) -> Config:
    """Remove pretrained weights, and use few regions in the second stage."""
    for _, node in walk(cfg.model.get('train_cfg') or {}):
        if 'sampler' in node:
            node.sampler.num = 16
    cfg.model.backbone.init_cfg = None
    if 'shared_head' in cfg.model.get('roi_head', {}):
        cfg.model.roi_head.shared_head.init_cfg = None
    return cfg


def is_slow(name: str) -> bool:
    """Whether a config takes ten seconds, and another one with the same parts is tested."""
    fast = ('ssd300_vgg16_cbam', 'stairnet_vgg16_cbam_voc', 'ssd300_mobilenet_voc')
    return image_size(name) == 300 and name not in (*fast, 'stairnet_mobilenet_cbam_voc')


@pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=[pytest.mark.slow] * is_slow(name)) for name in NAMES],
)
def test_every_config_trains_a_step_predicts_and_traces(name, capsys):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    preflight.check_names(cfg)
    run = RunConfig.from_cfg(cfg)
    check_options(run, list(run.splits.values()))
    assert capsys.readouterr().out == ''
    cfg = quick(cfg)
    fix_ssd_heads()  # as `CheckedRunner` does
    assert not scores_depend_on_the_batch(cfg)
    model, losses, before = train_step(cfg.model, cfg.optim_wrapper, image_size(name))
    assert torch.isfinite(losses['loss']) and losses['loss'] > 0
    cbams = [path for path, module in model.named_modules() if isinstance(module, CBAM)]
    assert len(cbams) == expected_cbams(name)
    after = dict(model.named_parameters())
    for path in cbams:
        own = [key for key in after if key.startswith(f'{path}.')]
        assert all(after[key].requires_grad for key in own)
        for gate in {key.split('cbam.')[1].split('.')[0] for key in own}:
            changed = [not torch.equal(before[key], after[key]) for key in own if gate in key]
            assert any(changed), f'{path}.{gate}'

    net = Features(model)
    net.eval()
    size = image_size(name)
    sample = DetDataSample(
        metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
    )
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        result = model.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances
    assert torch.isfinite(result.scores).all() and torch.isfinite(result.bboxes).all()
    example, images = torch.rand(2, 1, 3, size, size)
    traced = torch.jit.trace(net, example, check_trace=False)
    for eager_output, traced_output in zip(net(images), traced(images), strict=True):
        torch.testing.assert_close(eager_output, traced_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fragment', FRAGMENTS)
def test_every_fragment_has_the_options_of_its_ablation_and_trains(fragment, monkeypatch):
    """The small detector trains a step with each fragment."""
    # torch.compile makes its graph, but generating code for it would take minutes.
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='aot_eager'))
    plugins = Config.fromfile(CONFIGS / f'_base_/attention/{fragment}.py').plugins
    options = (ABLATIONS | OTHER_FRAGMENTS)[fragment]
    assert plugins == [dict(cfg=dict(type='CBAM', **options))]
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.model.backbone.update(type='WithPlugins', base_type='ResNet', plugins=plugins)
    model, losses, _ = train_step(cfg.model, cfg.optim_wrapper)
    assert torch.isfinite(losses['loss'])
    assert sum(isinstance(module, CBAM) for module in model.modules()) == 16


def test_every_ablation_of_the_paper_has_a_fragment():
    assert set(ABLATIONS) | set(OTHER_FRAGMENTS) == set(FRAGMENTS)


def strip(node: object) -> object:
    """A config without its attention, and without the scopes that MMEngine adds."""
    if isinstance(node, dict):
        node = {key: strip(value) for key, value in node.items() if key != '_scope_'}
        if node.get('type') == 'WithPlugins':
            node['type'] = node.pop('base_type')
        if any(plugin['cfg']['type'] == 'CBAM' for plugin in node.get('plugins', ())):
            del node['plugins']
        if str(node.get('checkpoint')).startswith('work_dirs/'):  # of the matching classifier
            node['checkpoint'] = re.sub('_(cbam|se)/', '/', node['checkpoint'])
    return [strip(item) for item in node] if isinstance(node, (list, tuple)) else node


WITH_ATTENTION = [name for name in NAMES if expected_cbams(name)]
# These configs combine the parts of a detector themselves, and have no baseline.
WITHOUT_BASELINE = [name for name in WITH_ATTENTION if name.endswith('_digits_voc')]


@pytest.mark.parametrize('config', sorted(set(WITH_ATTENTION) - set(WITHOUT_BASELINE)))
def test_config_differs_from_its_first_base_in_the_attention_alone(config):
    # The base is the baseline: another config of ours, or one of mmdet.
    base = first_base(CONFIGS / f'{config}.py')
    ours = Config.fromfile(CONFIGS / f'{config}.py').to_dict()
    theirs = get_config(base) if base.startswith('mmdet::') else Config.fromfile(CONFIGS / base)
    theirs = theirs.to_dict()
    assert strip(ours['model']) == strip(theirs['model'])
    assert ours['custom_imports'] == dict(imports=['cbam_det'])
    for name in set(ours) - {'model', 'custom_imports'}:
        if name in theirs:
            assert strip(ours[name]) == strip(theirs[name]), name
        else:  # variables of the fragment
            assert 'CBAM' in str(ours[name]), name
    assert set(theirs) <= set(ours)


@pytest.mark.parametrize('attention', ['se', 'cbam'])
def test_classifiers_of_tiny_imagenet_differ_in_the_attention_alone(attention):
    ours, theirs = (
        Config.fromfile(CONFIGS / f'tiny_imagenet/resnet18_half{name}.py').to_dict()
        for name in (f'_{attention}', '')
    )
    assert ours['model'] != theirs['model']
    for name in set(ours) - {'plugins', 'attention'}:
        assert strip(ours[name]) == strip(theirs[name]), name


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('faster_rcnn_r101_cbam', {'model.backbone.plugins': None}),
        ('rtmdet_tiny_cbam', {'model.backbone.plugins': None}),
        ('ssd512_vgg16_cbam', {'model.backbone.plugins': None, 'model.neck.plugins': None}),
    ],
)
def test_override_of_plugins_gives_the_baseline(name, options):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.merge_from_dict(options)
    ours, theirs = build_model(cfg), build_model(get_config(first_base(CONFIGS / f'{name}.py')))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_full_baseline_is_mmdets_own_config():
    ours = Config.fromfile(CONFIGS / 'faster_rcnn_r50.py').to_dict()
    theirs = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').to_dict()
    assert strip(ours) == strip(theirs)


def test_quarter_width_keeps_the_architecture():
    """The digits' detector has the modules of the full one, and a quarter of its channels."""
    full = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam.py').model
    small = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py').model
    full.neck.norm_cfg = small.neck.norm_cfg  # the norm of the neck is the one addition
    full.backbone.frozen_stages = -1  # attention in every block
    with DefaultScope.overwrite_default_scope('mmdet'):
        models = [MODELS.build(full), MODELS.build(small)]
    full_names, small_names = ([name for name, _ in model.named_modules()] for model in models)
    assert full_names == small_names
    full_width, small_width = (model.backbone.layer4[0].conv3.out_channels for model in models)
    assert full_width == 4 * small_width


def test_ablation_by_an_option_of_the_command_line():
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
    cfg.merge_from_dict({'model.backbone.plugins.0.cfg.order': 'parallel'})
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert {module.order for module in model.modules() if isinstance(module, CBAM)} == {'parallel'}


def test_config_registers_the_plugin_for_mmdets_own_tools():
    """`custom_imports` alone registers CBAM, without our tools."""
    code = (
        'from mmengine.config import Config; from mmengine.registry import MODELS; import sys; '
        f'Config.fromfile({str(CONFIGS / "faster_rcnn_r50_cbam.py")!r}); '
        'sys.exit(MODELS.get("CBAM") is None)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.mark.slow
def test_table_of_configs_is_up_to_date(run, tmp_path):
    run('benchmarks.configs', '--check', cwd=tmp_path)


@pytest.mark.parametrize('name', ['faster_rcnn_r50', 'retinanet_r18', 'ssd300_vgg16'])
def test_initial_losses_and_detections_equal_the_baseline_s_to_the_bit(name):
    baseline = quick(Config.fromfile(CONFIGS / f'{name}.py'))
    with_cbam = quick(Config.fromfile(CONFIGS / f'{name}_cbam.py'))
    size, results, state = image_size(name), [], None
    for cfg in (baseline, with_cbam):
        for _, node in walk(cfg.model.test_cfg):
            node.update({key: 0.0 for key in node if key == 'score_thr'})
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(cfg.model)
            model.init_weights()
        state = state or model.state_dict()
        model.load_state_dict(state, strict=False)
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size))
        shapes['batch_input_shape'] = (size, size)
        sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1])
        )
        torch.manual_seed(1)
        image = torch.rand(2, 3, size, size)
        model.train()
        losses = model.loss(image, [sample] * 2)
        model.eval()
        with torch.no_grad():
            detections = model.predict(image, [sample] * 2)[0].pred_instances
        results.append((losses, detections))
    (losses, detections), (cbam_losses, cbam_detections) = results
    assert list(losses) == list(cbam_losses)
    assert len(detections) == len(cbam_detections) > 0
    for key, value in losses.items():
        pairs = (
            zip(value, cbam_losses[key], strict=True)
            if isinstance(value, list)
            else [(value, cbam_losses[key])]
        )
        assert all(torch.equal(*pair) for pair in pairs), key
    assert torch.equal(detections.scores, cbam_detections.scores)
    assert torch.equal(detections.bboxes, cbam_detections.bboxes)
