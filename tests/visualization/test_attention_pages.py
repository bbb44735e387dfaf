"""Attention maps: the gates that are shown, and the pages of them."""

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


def test_gates_are_what_every_cbam_multiplies_with(photo):
    made = predictor(options={'model.backbone.plugins.0.cfg.start': 'paper'})
    for one in made.model.modules():  # away from the start, where a spatial gate is even
        if isinstance(one, CBAM):
            nn.init.normal_(one.spatial_gate.norm.weight)
    prepared = made.prepare(photo)
    products = []
    handles = [
        one.register_forward_hook(lambda m, args, out: products.append((args[0], out.clone())))
        for one in made.model.modules()
        if isinstance(one, CBAM)
    ]
    seen = gates(made.model, prepared.data)
    for handle in handles:
        handle.remove()
    assert len(seen) == 16 == len(products)
    for one, (x, out) in zip(seen, products, strict=True):
        channel, spatial = (torch.from_numpy(value) for value in (one.channel, one.spatial))
        torch.testing.assert_close(out, x * channel[:, :, None, None] * spatial[:, None])
        assert spatial.std() > 0 and not one.identity
    assert not any(one._forward_pre_hooks for one in made.model.modules() if isinstance(one, CBAM))


def test_attention_page_shows_each_block_and_each_stage(photo):
    made = predictor()
    figure = attention_page(made, photo)
    titles = [axis.get_title() for part in figure.subfigs for axis in part.axes]
    # From the identity start every weight is 1, and no noise is drawn as a pattern.
    assert 'layer1.0.bn3\n1.000 everywhere' in titles
    assert 'layer4.2.bn3\n1.000 everywhere' in titles and 'image; the model is untrained' in titles
    assert {f'backbone.layer{n}' for n in range(1, 5)} <= set(titles)
    for names, count in (
        (['backbone.inserted.layer3/1/bn3.cbam'], 1),
        (['layer4'], 3),
        (['layer4.1.bn3', 'layer*.0.*'], 5),
    ):
        chosen = attention_page(made, photo, names)
        titles = [axis.get_title() for part in chosen.subfigs for axis in part.axes]
        assert sum(title.startswith('layer') for title in titles) == count


def test_attention_is_seen_in_necks_and_on_regions_and_without_a_spatial_gate(photo, tmp_path):
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
    made = Predictor(cfg)
    prepared = made.prepare(photo)
    seen = gates(made.model, prepared.data)
    assert [one.spatial is None for one in seen] == [True] * 4 + [False]
    regions = seen[-1].spatial
    assert len(regions) > 1 and regions.shape[1:] == (7, 7)
    figures.save(gates_page(prepared, seen), tmp_path / 'page.png')
    figures.save(gates_page(prepared, seen[:4]), tmp_path / 'se.png')


def test_further_base_writes_attention_maps():
    text = '_base_ = [{!r}, {!r}]'
    bases = (DIGITS, str(CONFIGS / '_base_' / 'attention_maps.py'))
    cfg = Config.fromstring(text.format(*bases), '.py')
    assert cfg.custom_hooks == [dict(type='AttentionMapsHook', count=2)]
