"""Shared fixtures: a small data set of digits, a trained run, and functions that run the tools."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.registry import DefaultScope

from cbam_det.datasets.digits import Digits, make

from . import next_tries

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
CONFIG = CONFIGS / 'faster_rcnn_r50_cbam_digits.py'  # for the digits
SMALL = Digits(train=12, val=5, size=96, seed=3)
# Overrides for a run that takes seconds; all else is as in the shipped config.
QUICK = (
    *('train_dataloader.batch_size=4', 'train_cfg.val_interval=1', 'randomness.seed=0'),
    *('default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1'),
    'default_hooks.run_report=None',
    *(
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the trained run into one process, which trains once (`--dist loadgroup`)."""
    for item in items:
        if 'trained' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.xdist_group('trained'))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Do the remedies of all messages that a test has provoked, see `next_tries`."""
    with next_tries.recording():
        yield
    item.user_properties += next_tries.outcomes()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the remedies; with -v each of them."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    reports = [report for report in reports if getattr(report, 'when', '') == 'call']
    found = [pair for report in reports for pair in report.user_properties]
    kinds = ('remedy done', 'remedy not done', 'without a remedy')
    distinct = {kind: Counter(text for name, text in found if name == kind) for kind in kinds}
    for kind, counts in distinct.items():
        terminalreporter.write_line(f'{kind}: {counts.total()}, {len(counts)} different ones')
        for text in counts if terminalreporter.verbosity > 0 else ():
            terminalreporter.write_line(f'  {text}')


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Start each test with the same seed and mmdet's scope, and undo changes by tools.

    Tools that run in this process change the environment and sys.argv.
    """
    torch.manual_seed(0)
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, 'argv', [*sys.argv]),
        DefaultScope.overwrite_default_scope('mmdet'),
    ):
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run with one thread, which is faster for tiny feature maps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small data set of digits."""
    root = tmp_path_factory.mktemp('data') / 'digits'
    make(root, SMALL)
    return root


def without_warnings(stderr: str) -> str:
    """The output without the deprecation warning of torch 2.5 at the import of mmengine."""
    return re.sub(r'.*: DeprecationWarning: .*\n  .*\n', '', stderr)


@pytest.fixture(scope='session')
def run() -> Callable[..., subprocess.CompletedProcess]:
    """Run a tool: `run('train.py', config, cwd=folder)`; `status` is the expected exit status."""

    def call(
        tool: str,
        *args: object,
        cwd: Path,
        status: int = 0,
        timeout: float = 600,
        **environment: str,
    ) -> subprocess.CompletedProcess:
        python = [str(ROOT / 'tools' / tool)]
        if tool.endswith('.py'):
            python = [sys.executable, *python]
        elif tool.startswith('benchmarks.'):
            python = [sys.executable, '-m', tool]
            environment = dict(PYTHONPATH=str(ROOT), **environment)
        done = subprocess.run(
            [*python, *map(str, args)],
            cwd=cwd,
            env={**os.environ, 'PYTHON': sys.executable, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = done.stdout[-4000:] + done.stderr[-4000:]
        assert done.returncode == status, f'exit status {done.returncode}:\n{output}'
        if status == 2 and not tool.endswith('.sh'):
            message = next_tries.error_line(done.stderr)
            next_tries.tool_refused(tool.removesuffix('.py'), args, cwd, message)
        return done

    return call


def in_process(name: str) -> Callable[..., int]:
    """Load a tool to run it in this process: `in_process('visualize')('data', config)`.

    The call returns the exit status. `benchmarks.NAME` loads a module of benchmarks/.
    """
    tool = next_tries.load_tool(name)

    def call(*args: object) -> int:
        status = tool(*args)
        if status == 2:
            next_tries.tool_refused(name, args)
        return status

    call.module = tool.module
    return call


@pytest.fixture(scope='session')
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory, run: Callable) -> Path:
    """The folder of a training of two epochs on the small digits; its work_dir is `work`."""
    folder = tmp_path_factory.mktemp('trained')
    quick = [option for option in QUICK if 'run_report' not in option]
    options = ('--work-dir', 'work', '--data-root', digits, '--cfg-options', *quick)
    run('train.py', CONFIG, *options, 'train_cfg.max_epochs=2', cwd=folder)
    return folder
