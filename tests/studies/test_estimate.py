"""The announced duration of a comparison counts what its runs do."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from cbam_det.studies import estimate
from cbam_det.studies.estimate import _seconds, run_seconds
from cbam_det.utils.errors import InputError


class Clock:
    """A clock that only moves when something takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(estimate, 'time', clock)
    return clock


class Loader:
    """Batches, whose workers load faster than later ones at first."""

    def __init__(self, clock: Clock, times: list[float]) -> None:
        self.clock, self.times = clock, times
        self.batch_size, self.dataset = 8, range(5)

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[dict]:
        for seconds in self.times:
            self.clock.wait(seconds)
            yield {}


def test_later_steps_are_those_after_the_batches_that_were_loaded_before(clock):
    loader = Loader(clock, [3.0, *[0.0] * 4, *[0.5] * 95])
    first, later = _seconds(loader, lambda batch: clock.wait(0.1))
    assert first == pytest.approx(3.1) and later == pytest.approx(0.6)
    assert clock.now < 12  # seconds of timing
    clock.now = 0
    slow = Loader(clock, [40.0, 20.0, *[10.0] * 98])
    assert _seconds(slow, lambda batch: None) == pytest.approx((40, 10))
    assert clock.now == pytest.approx(100)  # at least six steps
    assert _seconds(Loader(clock, [2.0]), lambda batch: None) == pytest.approx((2, 2))


def test_run_is_two_builds_its_validations_with_their_starts_the_test_and_all_steps(
    clock, monkeypatch
):
    class Model:
        def train(self) -> Model:
            return self

        eval = train

        def val_step(self, batch: dict) -> None:
            clock.wait(1)

        test_step = val_step

        def train_step(self, batch: dict, wrapper: object) -> None:
            clock.wait(2)

    class Predictor:
        def __init__(self, cfg: Config) -> None:
            clock.wait(5)
            self.model = Model()

    loaders = dict(train=[4, *[0] * 9], val=[3, *[0] * 9], test=[3, *[0] * 4])
    monkeypatch.setattr(estimate, 'Predictor', Predictor)
    monkeypatch.setattr(estimate, 'build_optim_wrapper', lambda *_: None)
    monkeypatch.setattr(estimate, '_loader', lambda cfg, split: Loader(clock, loaders[split]))
    cfg = Config(
        dict(
            default_scope='mmdet',
            optim_wrapper={},
            val_cfg=dict(type='ValLoop'),
            train_cfg=dict(max_epochs=20, val_interval=5),
            val_dataloader=dict(batch_size=1),
            test_dataloader=dict(batch_size=1),
        )
    )
    validations, test, first, steps = 4 * (4 + 9 * 1), 4 + 4 * 1, 6, 20 * 10
    assert run_seconds(cfg) == pytest.approx(
        2 * 5 + validations + test + first + steps * 2 * estimate.LATER_EPOCHS
    )
    loaders['train'] = []  # `drop_last` leaves no batch
    with pytest.raises(InputError, match='drop_last=True leaves no batch of 8 from 5 images'):
        run_seconds(cfg)


def test_timed_steps_have_the_mixed_precision_and_the_memory_format_of_the_training(
    clock, monkeypatch
):
    """MMEngine's AmpOptimWrapper asserts that there is a GPU."""
    wrappers = []

    class Model(nn.Module):
        val_step = test_step = None

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def train_step(self, batch: dict, wrapper: OptimWrapper) -> None:
            wrappers.append(type(wrapper).__name__)

    model = Model()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(estimate, 'Predictor', lambda cfg: SimpleNamespace(model=model))
    monkeypatch.setattr(estimate, '_loader', lambda cfg, split: Loader(clock, [1, 1]))
    amp = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1), dtype='bfloat16')
    settings = dict(default_scope='mmdet', channels_last=True, train_cfg=dict(max_epochs=1))
    run_seconds(Config(dict(settings, optim_wrapper=amp)))
    assert wrappers == ['CPUAmpOptimWrapper'] * 2
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    amp['dtype'] = 'float16'
    with pytest.raises(InputError, match=r"optim_wrapper\.dtype='float16' needs a GPU"):
        run_seconds(Config(dict(settings, optim_wrapper=amp)))
