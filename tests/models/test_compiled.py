"""CBAM through torch.compile."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch._dynamo.testing import CompileCounterWithBackend

from cbam_det import CBAM
from cbam_det.models.compat import allow_compilations

from .cbam_options import OPTIONS, randomised
from .gradients import assert_same, output_and_gradients

pytestmark = pytest.mark.usefixtures('one_thread')


class TestCompiled:
    """`torch.compile`, mostly with a backend that does not compile C++."""

    @pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
    @pytest.mark.parametrize('options', OPTIONS[:10], ids=str)
    def test_graph_has_no_breaks_and_equals_the_module(self, options, training):
        module = randomised(**options).train(training)
        x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
        torch._dynamo.reset()
        report = torch._dynamo.explain(copy.deepcopy(module))(x)
        assert (report.graph_count, report.graph_break_count) == (1, 0), report.break_reasons
        compiled = torch.compile(copy.deepcopy(module), backend='aot_eager', fullgraph=True)
        g = torch.randn_like(x)
        actual = output_and_gradients(compiled, x, g)
        assert_same(actual, output_and_gradients(module, x, g), 1e-12)

    def test_one_graph_serves_maps_of_any_size(self):
        torch._dynamo.reset()
        module = randomised().eval()
        counter = CompileCounterWithBackend('aot_eager')
        compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
        frames = []
        for size in ((2, 8, 5, 6), (3, 8, 9, 4), (4, 8, 200, 31)):
            x = torch.randn(size, dtype=torch.float64)
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-12, atol=1e-13)
            frames.append(counter.frame_count)
        assert len(set(frames)) == 1 and frames[0] > 0

    def test_option_compiles_in_place_and_copies_and_weights_stay_usable(self, monkeypatch):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend('aot_eager')
        monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=counter))
        module = CBAM(8, 2, compile=True)
        eager = CBAM(8, 2)
        eager.load_state_dict(module.state_dict())
        x = torch.randn(2, 8, 5, 6)
        torch.testing.assert_close(module(x), eager(x))
        assert counter.frame_count > 0
        torch.testing.assert_close(copy.deepcopy(module).eval()(x), eager.eval()(x))

    def test_every_cbam_of_a_backbone_is_compiled_in_training_and_inference(self, monkeypatch):
        """They share one function; by default torch compiles it for only eight kinds of input."""
        torch._dynamo.reset()
        monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='eager'))
        if not hasattr(torch._dynamo.config, 'fail_on_recompile_limit_hit'):
            pytest.skip('torch before 2.6 has no option to fail at the limit of recompilations')
        monkeypatch.setattr(torch._dynamo.config, 'recompile_limit', 8)
        allow_compilations()
        monkeypatch.setattr(torch._dynamo.config, 'fail_on_recompile_limit_hit', True)
        plugins = [dict(cfg=dict(type='CBAM', compile=True), after='layer*.*.bn3')]
        with DefaultScope.overwrite_default_scope('mmdet'):
            base = dict(type='WithPlugins', base_type='ResNet', depth=50, base_channels=8)
            cfg = dict(base, plugins=plugins, frozen_stages=1)
            net = MODELS.build(cfg)
        for size in (64, 96):
            net.train()
            net(torch.randn(2, 3, size, size))[-1].sum().backward()
            net.eval()
            with torch.no_grad():
                net(torch.randn(1, 3, size, size))

    @pytest.mark.slow
    def test_generated_code_equals_the_module(self):
        torch._dynamo.reset()
        module, eager = CBAM(16, 4, compile=True), CBAM(16, 4)
        eager.load_state_dict(module.state_dict())
        x, g = torch.randn(2, 2, 16, 20, 24)
        actual = output_and_gradients(module, x, g)
        assert_same(actual, output_and_gradients(eager, x, g), 1e-5)
