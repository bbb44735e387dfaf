"""Attention maps: the weights that are shown, and their pages."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from torch import nn

from cbam_det.apis.inference import Predictor
from cbam_det.models.layers import CBAM
from cbam_det.visualization import figures
from cbam_det.visualization.attention import attention_page, gates, gates_page

from ..conftest import CONFIGS
from .untrained import DIGITS, predictor

pytestmark = pytest.mark.usefixtures('one_thread')


def test_gates_are_the_weights_that_each_cbam_multiplies_with(photo):
    detector = predictor(options={'model.backbone.plugins.0.cfg.start': 'paper'})
    cbams = [module for module in detector.model.modules() if isinstance(module, CBAM)]
    for cbam in cbams:  # a new spatial gate has the same weight everywhere
        nn.init.normal_(cbam.spatial_gate.norm.weight)
    prepared = detector.prepare(photo)
    products = []
    handles = [
        cbam.register_forward_hook(lambda m, args, out: products.append((args[0], out.clone())))
        for cbam in cbams
    ]
    passes = gates(detector.model, prepared.data)
    for handle in handles:
        handle.remove()
    assert len(passes) == 16 == len(products)
    for weights, (x, out) in zip(passes, products, strict=True):
        channel, spatial = (torch.from_numpy(array) for array in (weights.channel, weights.spatial))
        torch.testing.assert_close(out, x * channel[:, :, None, None] * spatial[:, None])
        assert spatial.std() > 0 and not weights.identity
    assert not any(cbam._forward_pre_hooks for cbam in cbams)


def test_attention_page_shows_each_block_and_each_stage(photo):
    detector = predictor()
    figure = attention_page(detector, photo)
    titles = [axis.get_title() for part in figure.subfigs for axis in part.axes]
    # With the identity start every weight is 1, and rounding noise is not drawn.
    assert 'layer1.0.bn3\n1.000 everywhere' in titles
    assert 'layer4.2.bn3\n1.000 everywhere' in titles and 'image; the model is untrained' in titles
    assert {f'backbone.layer{n}' for n in range(1, 5)} <= set(titles)
    for names, count in (
        (['backbone.inserted.layer3/1/bn3.cbam'], 1),
        (['layer4'], 3),
        (['layer4.1.bn3', 'layer*.0.*'], 5),
    ):
        page = attention_page(detector, photo, names)
        titles = [axis.get_title() for part in page.subfigs for axis in part.axes]
        assert sum(title.startswith('layer') for title in titles) == count


def test_attention_is_shown_in_necks_on_regions_and_without_a_spatial_gate(photo, tmp_path):
    extractor = dict(
        type='WithPlugins',
        base_type='SingleRoIExtractor',
        plugins=[dict(cfg=dict(type='CBAM', ratio=4), after='.')],
    )
    neck = dict(
        type='WithPlugins',
        base_type='FPN',
        plugins=[dict(cfg=dict(type='CBAM', order='channel'), after='fpn_convs.*')],
    )
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.merge_from_dict(dict(model=dict(neck=neck, roi_head=dict(bbox_roi_extractor=extractor))))
    cfg.custom_imports = dict(imports=['cbam_det'])
    detector = Predictor(cfg)
    prepared = detector.prepare(photo)
    passes = gates(detector.model, prepared.data)
    assert [weights.spatial is None for weights in passes] == [True] * 4 + [False]
    regions = passes[-1].spatial
    assert len(regions) > 1 and regions.shape[1:] == (7, 7)
    figures.save(gates_page(prepared, passes), tmp_path / 'page.png')
    figures.save(gates_page(prepared, passes[:4]), tmp_path / 'se.png')


def test_base_config_adds_the_hook_for_attention_maps():
    text = '_base_ = [{!r}, {!r}]'
    bases = (DIGITS, str(CONFIGS / '_base_' / 'attention_maps.py'))
    cfg = Config.fromstring(text.format(*bases), '.py')
    assert cfg.custom_hooks == [dict(type='AttentionMapsHook', count=2)]
