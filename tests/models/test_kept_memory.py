"""What the forward and backward pass of CBAM keep in memory, and for how long."""

from __future__ import annotations

import weakref

import pytest
import torch

from benchmarks import modules as benchmark
from cbam_det import CBAM
from cbam_det.models.layers import pooling

from .gradients import LAYOUTS

pytestmark = pytest.mark.usefixtures('one_thread')


def test_training_keeps_the_input_and_small_maps_alone():
    """The equations keep the map between the gates too."""
    x = torch.randn(2, 256, 72, 72, requires_grad=True)
    size = x.numel() * 4 / benchmark.MIB
    for module, extra_maps in ((CBAM(256), 0), (CBAM(256, memory_efficient=False), 1)):
        step = benchmark.training(module, x, torch.ones_like(x))
        left, peak = benchmark.memory(step, 'cpu')
        assert left / size - 1 == pytest.approx(extra_maps, abs=0.04)
        assert peak > left


@pytest.mark.parametrize('pools', ['lp', 'lse', 'conv'])
def test_other_pools_keep_the_input_alone_too(pools):
    x = torch.randn(2, 64, 72, 72, requires_grad=True)
    step = benchmark.training(CBAM(64, spatial_pools=pools), x, torch.ones_like(x))
    left, _ = benchmark.memory(step, 'cpu')
    assert left - x.numel() * 4 / benchmark.MIB < 0.3


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_inference_takes_one_output(dtype, layout):
    x = torch.randn(2, 256, 100, 100).to(getattr(torch, dtype), memory_format=LAYOUTS[layout])
    _, peak = benchmark.memory(benchmark.inference(CBAM(256), x), 'cpu')
    size = x.numel() * x.element_size() / benchmark.MIB
    parts = 0 if dtype == 'float32' else pooling.PART * 4 / benchmark.MIB
    assert size < peak < size + parts + 2


def test_mean_of_a_half_type_in_parts_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(pooling, 'PART', 2 * 4 * 9)
    x = torch.randn(2, 4, 9, 7).bfloat16()
    with torch.no_grad():
        for dim, keepdim in (((2, 3), False), ((2, 3), True), (1, True), (1, False)):
            mean = pooling.pool(x, 'avg', dim, keepdim)
            assert mean.dtype == torch.float32
            torch.testing.assert_close(mean, x.float().mean(dim, keepdim))


def test_backward_pass_frees_the_input_even_if_the_loss_is_kept():
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    for step in (lambda x: x * 1, lambda x: (x * 1)[:, :, ::2]):
        features = step(x)
        reference = weakref.ref(features)
        loss = CBAM(8, 2)(features).sum()
        del features
        loss.backward()
        assert reference() is None
        assert torch.isfinite(loss)
