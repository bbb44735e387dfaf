"""Show a run on a terminal: a summary, its progress, and one line per epoch.

MMEngine prints 500 lines before the first step. The log file and an output that is not a terminal
still get them; a terminal shows only warnings and what this hook prints.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Sequence

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Dataset

from ...evaluation.metrics import class_of_metric
from ...models.attention_modules import named_plugins
from ...models.built_model import count_parameters, unwrapped
from ...utils.installation import tool_command
from ...utils.mmengine_private import has_epochs, loaded_checkpoint
from ..schedules import optimizers

BRIEF = dict(brief=True)  # logger.info(text, extra=BRIEF) is shown on a terminal
# MMEngine warns that it uses these names itself, which no user can change.
OLD_NAMES = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
COLUMNS = '{:>9} {:>9} {:>9} {:>9} {:>8} {:>9}'


class BriefFilter(logging.Filter):
    """Lets warnings, records with `BRIEF`, and all lines of a test but its progress pass.

    Attributes:
        testing: whether a test runs.
    """

    testing = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the terminal shows a record."""
        if record.getMessage().startswith(OLD_NAMES):
            return False
        if record.levelno >= logging.WARNING or getattr(record, 'brief', False):
            return True
        return self.testing and not (
            'Epoch(test)' in record.getMessage() and 'eta' in record.getMessage()
        )


def shorten(logger: logging.Logger) -> None:
    """Add a `BriefFilter` to a logger's output on the terminal."""
    handler = _console(logger)
    if handler is not None and not _filters(handler):
        handler.addFilter(BriefFilter())


@HOOKS.register_module()
class TerminalHook(Hook):
    """Shows a run on a terminal: a summary, a progress bar, and one line per epoch.

    `CheckedRunner` adds it to every run. If the output is not a terminal, it prints nothing.
    `--cfg-options default_hooks.terminal=None` shows MMEngine's lines on a terminal instead.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._is_on = is_terminal()
        self._bars: Progress | None = None
        self._has_header = False
        self._since = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        """Print a summary of the run."""
        if not self._is_on:
            return
        for name, text in summary(runner).items():
            self._console.print(f'{name:12}{text}', markup=False, soft_wrap=True)

    def before_train_epoch(self, runner: Runner) -> None:
        """Show the progress bar of the epoch, or of all iterations if the run has no epochs."""
        self._since = time.monotonic()
        self._show(runner, *self._position(runner))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict | None = None,
    ) -> None:
        """Update the progress bar and the loss."""
        self._move(batch_idx + 1, f'loss {_last(runner, "train/loss"):.4f}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Print a line about the epoch."""
        self._hide(runner)
        if not self._is_on or not has_epochs(runner):
            return
        if not self._has_header:
            self._console.print(
                COLUMNS.format('epoch', 'loss', 'lr', 'memory', 'time', 'left'), style='bold'
            )
            self._has_header = True
        epochs = f'{min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs}'
        window = len(runner.train_dataloader)
        losses = runner.message_hub.log_scalars.get('train/loss')
        loss = float('nan') if losses is None else losses.mean(window)
        left = runner.message_hub.get_info('eta') or 0
        self._console.print(
            COLUMNS.format(
                epochs,
                f'{loss:.4f}',
                f'{_last(runner, "train/lr"):.2g}',
                f'{peak_memory() / 2**30:.1f} GiB',
                clock(time.monotonic() - self._since),
                clock(left),
            )
        )

    def before_val_epoch(self, runner: Runner) -> None:
        """Show the progress bar of the validation."""
        self._hide(runner)
        self._show(runner, 'validation', len(runner.val_dataloader))

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Move the bar."""
        self._move(batch_idx + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the first scores of the validation."""
        self._hide(runner)
        if self._is_on and metrics:
            step = '' if has_epochs(runner) else f'{runner.iter:,}'
            self._console.print(f'{step:>9} {scores(metrics)}', markup=False)
        if not has_epochs(runner) and runner.iter < runner.max_iters:
            self._show(runner, *self._position(runner))

    def before_test_epoch(self, runner: Runner) -> None:
        """Show the progress bar of the test, and until `close` what its metrics log."""
        self._set_testing(runner, True)
        self._show(runner, 'test', len(runner.test_dataloader))

    after_test_iter = after_val_iter

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove the progress bar."""
        self._hide(runner)

    def after_train(self, runner: Runner) -> None:
        """Print where the checkpoints are, and the command that reports the run."""
        if self._is_on:
            self._console.print(
                f'{runner.work_dir} has the checkpoints and the log; attention and Grad-CAM: '
                f'{tool_command("visualize", "report", runner.work_dir)}',
                markup=False,
                soft_wrap=True,
            )

    def close(self, runner: Runner) -> None:
        """End a run: remove the bar that an error left, which shows the cursor again."""
        self._hide(runner)
        self._set_testing(runner, False)

    def _set_testing(self, runner: Runner, testing: bool) -> None:
        for brief in _filters(_console(runner.logger)):
            brief.testing = testing

    def _position(self, runner: Runner) -> tuple[str, int]:
        if has_epochs(runner):
            return f'epoch {runner.epoch + 1}/{runner.max_epochs}', len(runner.train_dataloader)
        return 'iteration', runner.max_iters

    def _show(self, runner: Runner, name: str, total: int) -> None:
        if not self._is_on:
            return
        self._bars = Progress(
            TextColumn('{task.description:>15}'),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn('{task.fields[note]}'),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.add_task(name, total=total, note='')
        self._bars.start()
        handler = _console(runner.logger)
        if handler is not None:
            handler.setStream(sys.stdout)  # that of the bar, which stays below other output

    def _move(self, completed: int, note: str = '') -> None:
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=completed, note=note)

    def _hide(self, runner: Runner) -> None:
        if self._bars is None:
            return
        self._bars.stop()
        self._bars = None
        handler = _console(runner.logger)
        if handler is not None:
            handler.setStream(sys.stdout)


def is_terminal() -> bool:
    """Whether this is the main process and its output is a terminal."""
    return is_main_process() and sys.stdout.isatty()


def summary(runner: Runner) -> dict[str, str]:
    """Lines that summarise a training, by their titles."""
    model = unwrapped(runner.model)
    plugins = [plugin for _, plugin in named_plugins(model)]
    kinds = sorted({type(plugin).__name__ for plugin in plugins})
    dataset = runner.train_dataloader.dataset
    data = f'{len(dataset):,} images'
    if classes := classes_of(dataset):
        data += f', {len(classes)} classes'
    batches = len(runner.train_dataloader)
    # A batch sampler of a user's own may have no such attribute.
    if batch_size := getattr(runner.train_dataloader.batch_sampler, 'batch_size', None):
        data += f', {batch_size} per step'
    if has_epochs(runner):
        schedule = f'epochs {runner.epoch + 1} to {runner.max_epochs}, {batches:,} steps each'
    else:
        schedule = f'steps {runner.iter + 1:,} to {runner.max_iters:,}'
    group = optimizers(runner)[0].param_groups[0]
    attention = 'none'
    if plugins:
        count = count_parameters(*plugins) / 1e6
        attention = f'{len(plugins)} {" and ".join(kinds)}, {count:.2f} M parameters'
    return dict(
        data=data,
        model=f'{type(model).__name__}, {count_parameters(model) / 1e6:.2f} M parameters',
        attention=attention,
        weights=str(loaded_checkpoint(runner) or 'as the config initializes them'),
        schedule=f'{schedule}, learning rate {group.get("initial_lr", group["lr"]):.2g}',
        log=runner.log_dir,
    )


def classes_of(dataset: Dataset) -> Sequence[str]:
    """The names of a data set's classes, () if it has none."""
    metainfo = getattr(dataset, 'metainfo', None) or {}
    if isinstance(metainfo, list):  # of joined sets, one for each
        metainfo = metainfo[0]
    return metainfo.get('classes') or ()


def scores(metrics: dict[str, float]) -> str:
    """The first four scores of a validation with their names, without those of classes."""
    numbers = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not class_of_metric(name)
    }
    return ', '.join(f'{name} {value:.3f}' for name, value in list(numbers.items())[:4])


def peak_memory() -> int:
    """The peak memory of this process in bytes: on its GPU, or on the machine without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def clock(seconds: float) -> str:
    """Seconds as 1:02:03, or as 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


def _last(runner: Runner, name: str) -> float:
    scalars = runner.message_hub.log_scalars
    return float(scalars[name].current()) if name in scalars else float('nan')


def _console(logger: logging.Logger) -> logging.StreamHandler | None:
    """The handler that prints; None in processes that print nothing."""
    handlers = (handler for handler in logger.handlers if type(handler) is logging.StreamHandler)
    return next(handlers, None)


def _filters(handler: logging.StreamHandler | None) -> list[BriefFilter]:
    filters = handler.filters if handler is not None else ()
    return [brief for brief in filters if isinstance(brief, BriefFilter)]
