"""After a norm with fixed statistics a CBAM keeps no map; its numbers are the same to the bit."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from cbam_det.models import plugin_hooks
from cbam_det.models.insertion import insert
from cbam_det.models.layers.norm_input import find_norm_input

from .components import with_cbam
from .gradients import LAYOUTS

pytestmark = pytest.mark.usefixtures('mmdet_scope', 'one_thread')
R50 = dict(type='ResNet', depth=50, base_channels=8, frozen_stages=1, norm_eval=True)
IMAGES = torch.linspace(-9, 9, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin()


def randomised(net: nn.Module) -> nn.Module:
    """In training mode, with fixed statistics of the backbone's norms, none of which is 0 or 1."""
    torch.manual_seed(0)
    net.train()
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        if 'bn' in name or 'inserted' in name:
            value.data.uniform_(0.5, 1.5) if value.is_floating_point() else None
    return net


def gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    sum(level.float().square().mean() for level in net(x)).backward()
    return [value.grad for value in net.parameters() if value.grad is not None]


def kept_bytes(net: nn.Module, x: torch.Tensor) -> int:
    """The bytes that autograd keeps between the passes, besides the parameters and buffers."""
    own = {value.untyped_storage().data_ptr() for value in (*net.parameters(), *net.buffers())}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = net(x)  # alive, so that no address is used twice
    del outputs
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize(
    ('layout', 'dtype', 'order'),
    [
        ('contiguous', torch.float32, 'channel-spatial'),
        ('channels_last', torch.float32, 'parallel'),
        ('channels_last', torch.bfloat16, 'channel-spatial'),
    ],
)
def test_gradients_are_those_of_a_kept_map_to_the_bit(layout, dtype, order, monkeypatch):
    net = randomised(with_cbam(R50, 'layer4.*.bn3', order=order))
    net = net.to(memory_format=LAYOUTS[layout])
    x = IMAGES.to(memory_format=LAYOUTS[layout])
    found = []

    def find(*args: object) -> object:
        found.append(find_norm_input(*args))
        return found[-1]

    with torch.autocast('cpu', torch.bfloat16, enabled=dtype != torch.float32):
        monkeypatch.setattr(plugin_hooks, 'find_norm_input', find)
        recomputed = gradients(net, x)
        assert len(found) == 3 and None not in found
        monkeypatch.setattr(plugin_hooks, 'find_norm_input', lambda *args: None)
        kept = gradients(net, x)
    assert len(kept) == len(recomputed) > 50
    assert all(map(torch.equal, recomputed, kept))


def test_attention_keeps_no_map_in_a_backbone_that_is_not_frozen_as_a_whole(monkeypatch):
    plain = kept_bytes(randomised(MODELS.build(dict(R50))), IMAGES)
    net = randomised(insert(MODELS.build(dict(R50)), [dict(cfg=dict(type='CBAM', ratio=2))]))
    assert len(net.inserted) == 13
    assert kept_bytes(net, IMAGES) == plain
    monkeypatch.setattr(plugin_hooks, 'find_norm_input', lambda *args: None)
    assert kept_bytes(net, IMAGES) > 1.1 * plain


def test_a_change_in_place_between_the_passes_is_an_error():
    net = randomised(with_cbam(dict(R50, frozen_stages=-1), 'layer4.*.bn3'))
    loss = net(IMAGES)[-1].sum()
    with torch.no_grad():
        net.layer4[2].bn3.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


def found(norm: nn.Module, x: torch.Tensor) -> bool:
    return find_norm_input(norm, (x,), norm(x)) is not None


def test_only_a_map_that_can_be_computed_again_is_not_kept():
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    norm = nn.BatchNorm2d(8)
    assert not found(norm, x)  # its statistics are those of the batch
    assert found(norm.eval(), x)
    assert found(nn.SyncBatchNorm(8).eval(), x)
    assert not found(nn.BatchNorm2d(8, track_running_stats=False).eval(), x)
    assert not found(nn.GroupNorm(2, 8), x)
    assert not found(nn.Conv2d(8, 8, 1), x)
    with torch.no_grad():
        assert not found(norm, x)
    norm.register_forward_hook(lambda norm, args, output: output + 1)
    norm.register_forward_hook(lambda norm, args, output: None)
    assert not found(norm, x)


def test_a_norm_whose_forward_was_replaced_is_no_source_of_a_map():
    norm = nn.BatchNorm2d(8).eval()
    forward = norm.forward
    norm.forward = lambda x: 2 * forward(x)
    assert not found(norm, torch.randn(2, 8, 4, 4, requires_grad=True))


def test_a_norm_is_no_source_of_a_map_while_a_global_hook_may_change_it():
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    norm = nn.BatchNorm2d(8).eval()
    hook = register_module_forward_hook(lambda module, args, output: 2 * output)
    try:
        assert not found(norm, x)
    finally:
        hook.remove()
    assert found(norm, x)
