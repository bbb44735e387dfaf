"""The module with only torch installed, and in libraries other than OpenMMLab's."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from cbam_det.models.layers import CBAM

# Hides OpenMMLab's packages and those that they install.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = {'mmengine', 'mmcv', 'mmdet', 'cv2', 'pycocotools', 'matplotlib'}
        return None if name.split('.')[0] in missing else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import torch
from cbam_det.models.layers import CBAM
"""


def run_with_torch_alone(code: str) -> str:
    process = subprocess.run(
        [sys.executable, '-W', 'error::UserWarning:cbam_det', '-c', WITHOUT + code],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_with_torch_alone_the_module_starts_as_the_identity_trains_and_is_exported():
    printed = run_with_torch_alone("""
torch.manual_seed(0)
x = torch.randn(2, 32, 9, 7)
cbam = CBAM(32)
print(torch.equal(cbam(x), x))
torch.optim.SGD(cbam.parameters(), 1.0).step(lambda: cbam(x).square().mean().backward())
print(torch.equal(cbam(x), x))
cbam.eval()
exported = torch.export.export(cbam, (x,)).module()
print((exported(x) - cbam(x)).abs().max().item() < 1e-6)
""")
    assert printed.split() == ['True', 'False', 'True']


def test_with_torch_alone_other_libraries_weights_are_converted():
    printed = run_with_torch_alone("""
from cbam_det.checkpoints.convert import convert
print(convert.__module__)
""")
    assert printed.strip() == 'cbam_det.checkpoints.convert'


def test_timm_builds_its_networks_with_it():
    net = timm.create_model('resnet18', num_classes=5, block_args=dict(attn_layer=CBAM))
    cbams = [module for module in net.modules() if isinstance(module, CBAM)]
    assert [cbam.in_channels for cbam in cbams] == [64, 64, 128, 128, 256, 256, 512, 512]
    plain = timm.create_model('resnet18', num_classes=5)
    assert not net.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(net.eval()(x), plain.eval()(x))


def test_torchvision_s_resnet_works_with_it_after_a_norm():
    net = torchvision.models.resnet18(num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    before = net(x)
    for module in list(net.modules()):
        if isinstance(module, torchvision.models.resnet.BasicBlock):
            module.bn2 = nn.Sequential(module.bn2, CBAM(module.bn2.num_features)).eval()
    assert torch.equal(net(x), before)


@pytest.mark.parametrize('order', ['channel-spatial', 'spatial-channel', 'parallel', 'spatial'])
def test_fx_traces_the_equations(order):
    cbam = CBAM(16, 4, order=order, start='paper').eval()
    for parameter in cbam.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    graph = torch.fx.symbolic_trace(cbam)
    x = torch.randn(2, 16, 5, 6)
    torch.testing.assert_close(graph(x), cbam(x), rtol=1e-6, atol=1e-7)


def test_a_layer_s_own_eval_call_leaves_the_gate_s_norm_in_its_mode():
    """Backbones with norm_eval call it; only eval and train of the whole module set the mode."""
    cbam = CBAM(16)
    assert cbam.spatial_gate.norm.eval() is cbam.spatial_gate.norm
    assert cbam.spatial_gate.norm.training
    assert not cbam.eval().spatial_gate.norm.training
    assert cbam.train().spatial_gate.norm.training
    assert not CBAM(16, norm_eval=True).spatial_gate.norm.training
    assert not CBAM(16, norm_eval=True).train().spatial_gate.norm.training


@pytest.mark.parametrize(
    'make_copy',
    [copy.deepcopy, lambda cbam: pickle.loads(pickle.dumps(cbam))],
    ids=['copy', 'pickle'],
)
def test_a_copy_s_norm_keeps_its_own_mode(make_copy):
    cbam = CBAM(16)
    copied = make_copy(cbam)
    norm = copied.spatial_gate.norm
    assert norm.eval() is norm is not cbam.spatial_gate.norm
    assert norm.training


def test_a_norm_converted_to_sync_batch_norm_keeps_its_own_mode():
    cbam = nn.SyncBatchNorm.convert_sync_batchnorm(CBAM(16))
    norm = cbam.spatial_gate.norm
    assert type(norm) is nn.SyncBatchNorm
    norm.eval()
    assert norm.training


def test_no_forward_pass_changes_a_mode_or_a_setting_of_torch():
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    limit = getattr(config, name)
    cbam = CBAM(16)
    cbam.spatial_gate.norm.training = False
    cbam(torch.randn(2, 16, 5, 5))
    assert not cbam.spatial_gate.norm.training
    assert getattr(config, name) == limit
