"""What the tests of training runs share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from cbam_det.checkpoints import files

from .tiny_run import RUNNERS, Draw


@pytest.fixture
def tiny_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run of `toy` reads weights alone, listens to Ctrl-C, and leaves no workers behind."""
    monkeypatch.setenv(files.WEIGHTS_ONLY, '1')
    files.read_weights_only()  # as the tools do
    monkeypatch.setattr(os, 'fsync', lambda file: None)  # seconds, where others write much
    Draw.score = 0
    # Tests in a script's background ignore it, and so would the runs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    for runner in RUNNERS:  # python's garbage collector takes 5 s to end a worker
        for loop in (runner._train_loop, runner._val_loop):
            if iterator := getattr(getattr(loop, 'dataloader', None), '_iterator', None):
                iterator._shutdown_workers()
    RUNNERS.clear()
