"""Warn if a resumed run does not use the schedules of its config, or if a schedule ends early.

MMEngine restores a schedule with all of its settings (`__dict__`), and an optimizer with its
learning rate, weight decay and momentum. So a change of these in the config has no effect on a
resumed run, and a schedule that has ended leaves the learning rate at its last value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.optim import Optimizer

from ..utils.errors import InputError, first_few
from ..utils.mmengine_private import ParamScheduler, loaded_checkpoint
from ..utils.options import cfg_options

# The state of a schedule that is not a setting.
PROGRESS = ('last_step', 'base_values', 'verbose', 'best', 'num_bad_value', 'cooldown_counter')


def restored_differences(runner: Runner, checkpoint: dict) -> list[str]:
    """The settings that a checkpoint restores and that differ from those of the config.

    Args:
        runner: the runner that resumes, with the schedules and the optimizer of its config.
        checkpoint: the checkpoint from which it resumes.

    Returns:
        Texts such as 'param_scheduler.0.T_max=8 (config: 16)'. `T_max` is in iterations if the
        schedule is converted to them.

    Raises:
        InputError: the number of parameter groups differs, so torch cannot restore the optimizer.
    """
    differences: list[str] = []
    if isinstance(runner.optim_wrapper, dict):
        return differences  # the runner does not train, so it has built no optimizer
    for name, own in _by_name(runner.param_schedulers):
        states = dict(_by_name(checkpoint.get('param_schedulers'))).get(name, [])
        place = 'param_scheduler' + (f'.{name}' if name else '')
        if states and len(states) != len(own):
            differences.append(f'{len(states)} schedules in {place} (config: {len(own)})')
        for number, (schedule, state) in enumerate(zip(own, states, strict=False)):
            differences += _differences(f'{place}.{number}', state, _settings(schedule))
    groups = [group for optim in optimizers(runner) for group in optim.param_groups]
    saved_groups = list(_saved_groups(checkpoint.get('optimizer') or {}))
    if saved_groups and len(saved_groups) != len(groups):
        raise InputError(
            f"the checkpoint's optimizer has {len(saved_groups)} groups of parameters and the "
            f"config's {len(groups)}: use the paramwise_cfg and frozen_stages with which it was "
            f'trained, or start from its weights: {_from_weights(runner)}'
        )
    for group, state in zip(groups, saved_groups, strict=False):
        scheduled = [key.removeprefix('initial_') for key in group if key.startswith('initial_')]
        settings = {key: value for key, value in group.items() if key not in ('params', *scheduled)}
        differences += _differences('optim_wrapper.optimizer', state, settings)
    return list(dict.fromkeys(differences))


def warn_restored(runner: Runner, checkpoint: dict) -> None:
    """Warn of `restored_differences`, if there are any."""
    if differences := restored_differences(runner, checkpoint):
        runner.logger.warning(
            f'resumed: {first_few(differences, 8)}. The values of the checkpoint are used; for '
            f'those of the config, start from its weights: {_from_weights(runner)}'
        )


def warn_ended(runner: Runner) -> None:
    """Warn if all schedules of the learning rate end before the training, or have ended already."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    for _, schedules in _by_name(runner.param_schedulers):
        of_rate = [schedule for schedule in schedules if schedule.param_name == 'lr']
        if not by_epoch and (idle := [schedule for schedule in of_rate if schedule.by_epoch]):
            runner.logger.warning(
                f'{_kind(idle[0])} of param_scheduler counts epochs, but this training counts '
                'iterations, so it has no effect; give it by_epoch=False, and its numbers in '
                'iterations'
            )
        if all(schedule.begin == 0 and _is_warm_up(schedule) for schedule in of_rate):
            continue  # the rate is meant to be constant after its warm-up
        _warn_end(runner, max(of_rate, key=lambda schedule: _end_share(runner, schedule)))


def optimizers(runner: Runner) -> list[Optimizer]:
    """The optimizers of a run, which must be built already."""
    wrapper = runner.optim_wrapper
    wrappers = getattr(wrapper, 'optim_wrappers', None)  # of an OptimWrapperDict
    return [part.optimizer for part in (wrappers.values() if wrappers else [wrapper])]


def _warn_end(runner: Runner, schedule: ParamScheduler) -> None:
    """Warn if the last schedule ends before the training."""
    unit = 'epoch' if schedule.by_epoch else 'iteration'
    now, total = runner.iter, runner.max_iters
    if schedule.by_epoch:
        now, total = runner.epoch, runner.max_epochs
    if schedule.end >= total or now >= total:
        return
    where = f'the last schedule of the learning rate ({_kind(schedule)}) '
    remedy = 'give param_scheduler an end (and T_max, milestones) for the whole training'
    if schedule.end > now:
        runner.logger.warning(
            f'{where}ends at {unit} {schedule.end} of {total}, after which the rate is constant; '
            f'{remedy}'
        )
        return
    rates = sorted({group['lr'] for group in schedule.optimizer.param_groups}, reverse=True)
    runner.logger.warning(
        f'{where}ended at {unit} {schedule.end}: {unit}s {now + 1} to {total} train with lr '
        f'{first_few([f"{rate:g}" for rate in rates])}; {remedy}, and start from the weights: '
        f'{_from_weights(runner)}'
    )


def _from_weights(runner: Runner) -> str:
    """The options with which a new training starts from the weights of the checkpoint."""
    return f'{cfg_options({"load_from": str(loaded_checkpoint(runner))})} without --resume'


def _is_warm_up(schedule: ParamScheduler) -> bool:
    return _kind(schedule).startswith(('Linear', 'Constant'))


def _end_share(runner: Runner, schedule: ParamScheduler) -> float:
    """The share of the training after which a schedule ends."""
    return schedule.end / (runner.max_epochs if schedule.by_epoch else runner.max_iters)


def _differences(place: str, state: dict, settings: dict) -> Iterator[str]:
    for key, value in settings.items():
        if key in state and state[key] != value:
            yield f'{place}.{key.removeprefix("initial_")}={state[key]} (config: {value})'


def _settings(schedule: ParamScheduler) -> dict:
    return {
        key: value
        for key, value in schedule.state_dict().items()
        if key not in PROGRESS and not key.startswith('_')
    }


def _kind(schedule: ParamScheduler) -> str:
    return type(schedule).__name__


def _by_name(schedules: list | dict | None) -> Iterable[tuple[str, list]]:
    """Schedules by the name of their optimizer, '' if there is only one."""
    return schedules.items() if isinstance(schedules, dict) else [('', schedules or [])]


def _saved_groups(state: dict) -> Iterator[dict]:
    if 'param_groups' in state:
        yield from state['param_groups']
    else:
        for part in state.values():
            yield from part.get('param_groups', ()) if isinstance(part, dict) else ()
