"""Weights of `init_cfg` fit their part, or the error names the prefix to set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from cbam_det.checkpoints.loading import check_pretrained
from cbam_det.utils.errors import InputError
from cbam_det.utils.run_config import ModelConfig


def detector(path: Path, part: str = 'backbone', depth: int = 18, **init) -> Config:
    """A config whose backbone or whole model starts from a file."""
    init = dict(type='Pretrained', checkpoint=str(path), **init)
    backbone = dict(
        type='WithPlugins',
        base_type='ResNet',
        depth=depth,
        base_channels=8,
        plugins=[dict(cfg=dict(type='CBAM', ratio=2))],
    )
    model = dict(type='RetinaNet', backbone=backbone)
    (backbone if part == 'backbone' else model)['init_cfg'] = init
    return Config(dict(model=model))


class Detector(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.backbone = MODELS.build(cfg.model.backbone)
        self.init_cfg = cfg.model.get('init_cfg')


def resnet(depth: int = 18, prefix: str = '') -> dict[str, torch.Tensor]:
    cfg = dict(type='ResNet', depth=depth, base_channels=8)
    return {f'{prefix}{key}': value for key, value in MODELS.build(cfg).state_dict().items()}


def check(cfg: Config) -> None:
    check_pretrained(ModelConfig.from_cfg(cfg).pretrained, Detector(cfg))


def saved(folder: Path, state: dict) -> Path:
    path = folder / 'classifier.pth'
    torch.save(dict(state_dict={**state, 'head.fc.weight': torch.zeros(10, 64)}), path)
    return path


def test_missing_prefix_is_an_error_with_the_option_that_fixes_it(tmp_path):
    path = saved(tmp_path, resnet(prefix='backbone.'))
    with pytest.raises(InputError) as caught:
        check(detector(path))
    assert str(caught.value) == (
        f'{path} (init_cfg of model.backbone) does not fit: it has 0 of the 100 weights '
        'of model.backbone (conv1.weight, bn1.weight, bn1.bias and 97 more); its keys begin with '
        'backbone.: add --cfg-options model.backbone.init_cfg.prefix=backbone.'
    )
    cfg = detector(path)
    option = str(caught.value).rpartition('--cfg-options ')[2].split('=')
    cfg.merge_from_dict(dict([option]))
    check(cfg)


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone'])
def test_weights_that_fit_pass_if_the_attention_is_new(prefix, tmp_path):
    check(detector(saved(tmp_path, resnet())))
    check(detector(saved(tmp_path, resnet(prefix='backbone.')), prefix=prefix))
    check(detector(saved(tmp_path, resnet(prefix='module.'))))
    check(detector(saved(tmp_path, resnet(prefix='backbone.')), part='model'))


def test_wrong_prefix_is_an_error_with_the_right_one(tmp_path):
    path = saved(tmp_path, resnet(prefix='net.trunk.'))
    with pytest.raises(InputError, match=r'0 of the 100 .*init_cfg\.prefix=net\.trunk\.$'):
        check(detector(path, prefix='backbone.'))


def test_weights_of_a_part_are_an_error_that_names_the_part(tmp_path):
    path = saved(tmp_path, resnet())
    with pytest.raises(
        InputError, match=r'has the weights of model\.backbone: move the init_cfg there'
    ):
        check(detector(path, part='model'))


def test_weights_of_another_network_are_an_error_with_their_names(tmp_path):
    path = saved(tmp_path, {'features.0.weight': torch.zeros(8, 3, 3, 3)})
    with pytest.raises(InputError, match=r'it has features\.0\.weight, head\.fc\.weight; give'):
        check(detector(path))


def test_weights_of_another_depth_are_refused(tmp_path):
    with pytest.raises(InputError, match=r'it has \d+ of the \d+ weights .*conv1'):
        check(detector(saved(tmp_path, resnet()), depth=50))


def original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a Swin Transformer under the names of its authors."""
    names = {
        'stages.': 'layers.',
        'patch_embed.projection': 'patch_embed.proj',
        'attn.w_msa.': 'attn.',
        'ffn.layers.0.0.': 'mlp.fc1.',
        'ffn.layers.1.': 'mlp.fc2.',
    }
    result = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        result[key] = value
    return result


@pytest.mark.parametrize('own', [True, False])
def test_weights_that_swin_renames_are_compared_under_their_new_names(own, tmp_path):
    path = tmp_path / 'swin.pth'
    small = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), convert_weights=True)
    init = dict(type='Pretrained', checkpoint=str(path))
    cfg = Config(dict(model=dict(backbone=dict(type='SwinTransformer', init_cfg=init, **small))))
    state = Detector(cfg).backbone.state_dict()
    torch.save(dict(model=original_names(state) if own else resnet()), path)
    if own:
        check(cfg)
        return
    with pytest.raises(InputError, match=r'it has 0 of the \d+ weights of model\.backbone'):
        check(cfg)
    torch.save(dict(state_dict={f'backbone.{key}': state[key] for key in state}), path)
    with pytest.raises(
        InputError, match=r'add --cfg-options model\.backbone\.convert_weights=False'
    ):
        check(cfg)


def test_part_that_renames_weights_in_an_unknown_way_is_not_checked(tmp_path):
    cfg = detector(saved(tmp_path, resnet(prefix='x.')))
    model = Detector(cfg)
    model.backbone.convert_weights = True  # as in Swin and PVT, whose conversions are known
    check_pretrained(ModelConfig.from_cfg(cfg).pretrained, model)
