"""Report the attention of a run: its weights, and whether it trains, is used or saturates."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ...checkpoints.attention import check_attention, pretrained_parts, state_of
from ...models.attention_modules import has_doubled_gates, named_plugins
from ...models.built_model import count_parameters, unwrapped
from ...models.insertion import places_left_out
from ...models.layers import CBAM
from ...models.layers.torch_private import is_compiled
from ...models.paper_places import also_in_frozen
from ...utils.config import larger_rate
from ...utils.errors import InputError, first_few
from ...utils.mmengine_private import is_resumed, is_training, loaded_checkpoint
from ...utils.options import cfg_options
from ..schedules import optimizers
from .gate_use import GateUse
from .gate_weights import GateWeights

REMEDY = (
    'remove the code that bypasses it, or the attention; to turn this check off: --cfg-options '
    'default_hooks.attention_audit.used_within=0'
)


@HOOKS.register_module()
class AttentionAuditHook(Hook):
    """Reports all attention at the start of training and checks that it is used.

    Later it warns if gates are saturated, and at the end if the attention has not changed from its
    identity start. `CheckedRunner` adds this hook to runs of models with plugins;
    `default_hooks.attention_audit=None` turns it off.

    Attention weights in a checkpoint that do not fit the model are an error, and so are attention
    weights that a checkpoint for a test or a resumed run does not have. MMEngine only warns.

    Args:
        saturation_at: the iteration after which saturation is reported, 0 for never.
        limit: a weight is saturated below `1 - limit` or above `limit` of its range.
        used_within: the number of iterations within which each gate must run and, unless it is
            frozen, receive a gradient; 0 turns the check off. The gates are only watched until this
            is so, usually for one iteration. In the first validation each plugin must run too,
            unless its parent module does not run.

    Raises:
        InputError: attention weights do not fit, before the first step; or a gate is not used,
            after `used_within` iterations or after the first validation.
    """

    def __init__(
        self, saturation_at: int = 500, limit: float = 0.99, used_within: int = 10
    ) -> None:
        self.saturation_at, self.limit, self.used_within = saturation_at, limit, used_within
        self.in_training: GateUse | None = None
        self.in_validation: GateUse | None = None
        self.last_watched = 0
        self.validated = False
        self.sources: dict[str, str] = {}
        self.weights: GateWeights | None = None

    def before_run(self, runner: Runner) -> None:
        """Check the attention in the weights that `init_cfg` names."""
        if not is_training(runner):
            return
        shared: dict[str, list[tuple[str, nn.Module, dict[str, Tensor]]]] = {}
        for name, part, source, state in pretrained_parts(unwrapped(runner.model)):
            shared.setdefault(source, []).append((name, part, state))
            self._record_source(state, part, source, f'{name}.' if name else '')
        for source, parts in shared.items():
            # In a C4 detector the backbone has three stages and the head has the fourth.
            key_sets = [set(part.state_dict()) for _, part, _ in parts]
            for (name, part, state), part_keys in zip(parts, key_sets, strict=True):
                other_keys = set().union(*key_sets) - part_keys
                part_state = {key: value for key, value in state.items() if key not in other_keys}
                place = f'model.{name}' if name else 'model'
                check_attention(part_state, part, source, whole=False, place=place)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the attention in the weights of `load_from`, of a resumed run or of a test."""
        source = str(loaded_checkpoint(runner) or 'the checkpoint')
        state = state_of(checkpoint)
        model = unwrapped(runner.model)
        prefix = ''
        if hasattr(model, 'student') and not any(key.startswith('student.') for key in state):
            # mmdet loads student and teacher from one detector.
            model, prefix = model.get_submodule('student'), 'student.'
        check_attention(state, model, source, whole=not is_training(runner) or is_resumed(runner))
        self._record_source(state, model, source, prefix)

    def _record_source(self, state: Mapping, part: nn.Module, source: str, prefix: str) -> None:
        """Remember which plugins got their weights from `source`."""
        for name, _ in named_plugins(part):
            if any(key.startswith(f'{name}.') for key in state):
                self.sources[prefix + name] = source

    def before_train(self, runner: Runner) -> None:
        """Log a table of all attention with its current learning rates."""
        rates = {
            id(value): (group['lr'], group.get('initial_lr', group['lr']))
            for optim in optimizers(runner)
            for group in optim.param_groups
            for value in group['params']
        }
        model = unwrapped(runner.model)
        table = Table('attention', 'options', 'parameters', 'weights', 'trains')
        for name, plugin in named_plugins(model):
            count = count_parameters(plugin)
            new = 'new'
            if isinstance(plugin, CBAM):
                new = f'new, start={"identity" if has_doubled_gates(plugin) else "paper"}'
            trains = _trains(plugin, rates)
            table.add_row(name, _options(plugin), f'{count:,}', self.sources.get(name, new), trains)
        if not table.row_count:
            runner.logger.info('this model has no attention')
            return
        runner.logger.info(f'attention of this run:\n{_text(table)}')
        for name, component in model.named_modules():
            if left_out := places_left_out(component):
                entry = f'model.{name}.plugins.0'
                options = {f'{entry}.{key}': of for key, of in also_in_frozen(component).items()}
                runner.logger.info(
                    f'{name} has no attention in its frozen stages ({first_few(left_out)}); '
                    f'{cfg_options(options)} inserts it there too'
                )
        # A model that is compiled or sharded as a whole does not run the hooks of its modules.
        if self.used_within and isinstance(runner, Runner) and not runner.cfg.get('compile'):
            self.in_training = GateUse(model, gradients=True)
            self.last_watched = min(runner.iter + self.used_within, runner.max_iters)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """In iteration `saturation_at` and in the last one, record the weights of each CBAM."""
        if runner.iter in (self.saturation_at - 1, runner.max_iters - 1):
            self.weights = GateWeights(unwrapped(runner.model))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Check that the gates are used, and log gates that are saturated or still at 1.00."""
        if self.weights:
            self._log_weights(runner, self.weights)
            self.weights = None
        if self.in_training:
            self._check_use(self.in_training, last=runner.iter + 1 >= self.last_watched)

    def _log_weights(self, runner: Runner, weights: GateWeights) -> None:
        weights.close()
        if runner.iter == runner.max_iters - 1 and weights.unchanged():
            runner.logger.warning(
                'the attention has no effect: all of its weights are still 1.00 after this '
                'training; train longer, or give it a larger learning rate: '
                f'{larger_rate(runner.cfg)}'
            )
        if runner.iter != self.saturation_at - 1:
            return
        table = Table('attention', 'gate', 'saturated', 'minimum', 'mean', 'maximum')
        for name, kind, share, values in weights.saturated(self.limit):
            numbers = [f'{of(values).item():.3f}' for of in (torch.min, torch.mean, torch.max)]
            table.add_row(name, kind, f'{share:.0%}', *numbers)
        if table.row_count:
            runner.logger.warning(
                f'saturated gates after {self.saturation_at} iterations; a smaller learning rate '
                f'of the attention may help (paramwise_cfg, key inserted):\n{_text(table)}'
            )
        elif weights.gates:
            runner.logger.info(f'no gate is saturated after {self.saturation_at} iterations')

    def _check_use(self, use: GateUse, last: bool) -> None:
        """Stop watching if all gates are used; in the last iteration raise InputError otherwise."""
        not_run, not_graded = use.not_run(), use.without_gradient()
        if (not_run or not_graded) and not last:
            return
        use.close()
        self.in_training = None
        if not_run or not_graded:
            names = first_few(not_run or not_graded)
            raise InputError(
                f'the attention at {names} has not {"run" if not_run else "received a gradient"} '
                f'by iteration {self.last_watched}: the model bypasses it; {REMEDY}'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Watch the gates in the first validation of a training."""
        if self.last_watched and not self.validated:
            self.in_validation = GateUse(unwrapped(runner.model), gradients=False)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: object = None,
    ) -> None:
        """Stop watching if all gates have run."""
        use = self.in_validation
        if use and not (use.not_run() or use.idle()):
            self._end_validation(use)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Check that the gates have run."""
        use = self.in_validation
        if use is None:
            return
        self._end_validation(use)
        if names := use.not_run():
            raise InputError(
                f'the first validation did not run the attention at {first_few(names)}, although '
                f'it ran {use.parents[names[0]] or "the model"}; {REMEDY}'
            )
        if names := use.idle():
            runner.logger.warning(
                f'validation does not use the attention at {first_few(names)} or the module '
                'that contains it'
            )

    def _end_validation(self, use: GateUse) -> None:
        use.close()
        self.in_validation, self.validated = None, True


def _options(cbam: nn.Module) -> str:
    if not isinstance(cbam, CBAM):
        return type(cbam).__name__
    parts = [cbam.order]
    if cbam.channel_gate:
        parts.append('+'.join(cbam.channel_gate.pools))
    if cbam.spatial_gate:
        size = cbam.spatial_gate.conv.kernel_size[0]
        parts.append(f'{size}x{size}')
    if cbam.memory_efficient is False:
        parts.append('memory_efficient=False')
    if is_compiled(cbam):
        parts.append('compiled')
    return ', '.join(parts)


def _trains(plugin: nn.Module, rates: dict[int, tuple[float, float]]) -> str:
    values = list(plugin.parameters())
    if not values:
        return 'no: without parameters'
    if not any(value.requires_grad for value in values):
        own = getattr(plugin, 'frozen', False)
        return 'no: frozen=True' if own else 'no: frozen by its backbone (frozen_stages)'
    if not any(id(value) in rates for value in values):
        return 'no: not in the optimizer'
    now, base = max(rates.get(id(value), (0, 0)) for value in values)
    if not now and not base:
        return 'no: learning rate 0'
    return f'yes, lr {now:g}' if now == base else f'yes, lr {now:g} (base {base:g})'


def _text(table: Table) -> str:
    page = io.StringIO()
    Console(file=page, width=160).print(table)
    return page.getvalue()
