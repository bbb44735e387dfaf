"""The schedules of a run beside its config: what a checkpoint restores, and when they end.

MMEngine restores a schedule with all its settings (`__dict__`), and an optimizer with its learning
rate, weight decay and momentum. So what was changed in the config has no effect on a resumed run,
and a schedule that has ended leaves the learning rate where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.optim import Optimizer

from ..utils.errors import InputError, first_few
from ..utils.options import cfg_options

# Of a schedule's state: how far it is.
PROGRESS = ('last_step', 'base_values', 'verbose', 'best', 'num_bad_value', 'cooldown_counter')


def restored_differences(runner: Runner, checkpoint: dict) -> list[str]:
    """What a checkpoint restores in place of other values of the config.

    Args:
        runner: about to resume, with schedules and optimizer built by its config.
        checkpoint: what it resumes from.

    Returns:
        'param_scheduler.0.T_max=8 (config: 16)' and so on; `T_max` is in iterations where the
        schedule is converted to them.

    Raises:
        InputError: the optimizers have other groups of parameters, which torch cannot restore.
    """
    found: list[str] = []
    if isinstance(runner.optim_wrapper, dict):
        return found  # a runner that resumes without a training
    for name, own in _by_name(runner.param_schedulers):
        saved = dict(_by_name(checkpoint.get('param_schedulers')))
        place = 'param_scheduler' + (f'.{name}' if name else '')
        theirs = saved.get(name, [])
        if theirs and len(theirs) != len(own):
            found.append(f'{len(theirs)} schedules in {place} (config: {len(own)})')
        for number, (schedule, state) in enumerate(zip(own, theirs, strict=False)):
            found += _differences(f'{place}.{number}', state, _settings(schedule))
    groups = [group for optim in optimizers(runner) for group in optim.param_groups]
    theirs = list(_saved_groups(checkpoint.get('optimizer') or {}))
    if theirs and len(theirs) != len(groups):
        raise InputError(
            f"the checkpoint's optimizer has {len(theirs)} groups of parameters and the config's "
            f'{len(groups)}: give the paramwise_cfg and frozen parts that it was trained with, or '
            f'start from its weights: {_from_weights(runner)}'
        )
    for group, state in zip(groups, theirs, strict=False):
        scheduled = [key.removeprefix('initial_') for key in group if key.startswith('initial_')]
        settings = {key: value for key, value in group.items() if key not in ('params', *scheduled)}
        found += _differences('optim_wrapper.optimizer', state, settings)
    return list(dict.fromkeys(found))


def tell_restored(runner: Runner, checkpoint: dict) -> None:
    """Log `restored_differences`, if there are any."""
    found = restored_differences(runner, checkpoint)
    if found:
        runner.logger.warning(
            f'resumed: {first_few(found, 8)}. The values of the checkpoint hold; for those of the '
            f'config start from its weights: {_from_weights(runner)}'
        )


def tell_ended(runner: Runner) -> None:
    """Log that the learning rate is scheduled no longer, now or before the end of the training."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    for _, schedules in _by_name(runner.param_schedulers):
        rates = [one for one in schedules if one.param_name == 'lr']
        if not by_epoch and (idle := [one for one in rates if one.by_epoch]):
            runner.logger.warning(
                f'{_kind(idle[0])} of param_scheduler counts epochs, of which a training by '
                'iterations has none: it has no effect; give it by_epoch=False, and its numbers in '
                'iterations'
            )
        # A rate that stays after its warm-up is meant to.
        if all(one.begin == 0 and _kind(one).startswith(('Linear', 'Constant')) for one in rates):
            continue
        _tell_end(runner, max(rates, key=lambda one: _share(runner, one.end, one.by_epoch)))


def optimizers(runner: Runner) -> list[Optimizer]:
    """The optimizers of a run that has built them."""
    wrapper = runner.optim_wrapper
    many = getattr(wrapper, 'optim_wrappers', None)
    return [one.optimizer for one in (many.values() if many else [wrapper])]


def _tell_end(runner: Runner, schedule: _ParamScheduler) -> None:
    """Log when the last schedule ends."""
    unit = 'epoch' if schedule.by_epoch else 'iteration'
    now, most = runner.iter, runner.max_iters
    if schedule.by_epoch:
        now, most = runner.epoch, runner.max_epochs
    if schedule.end >= most or now >= most:
        return
    where = f'the last schedule of the learning rate ({_kind(schedule)}) '
    remedy = 'give param_scheduler an end (and T_max, milestones) for the whole training'
    if schedule.end > now:
        runner.logger.warning(
            f'{where}ends at {unit} {schedule.end} of {most}, from where the rate stays as it is; '
            f'{remedy}'
        )
        return
    rates = sorted({group['lr'] for group in schedule.optimizer.param_groups}, reverse=True)
    runner.logger.warning(
        f'{where}ended at {unit} {schedule.end}: {unit}s {now + 1} to {most} train with lr '
        f'{first_few([f"{rate:g}" for rate in rates])}; {remedy}, and start from the weights: '
        f'{_from_weights(runner)}'
    )


def _from_weights(runner: Runner) -> str:
    """The option of a command by which a training begins with the weights that are resumed here."""
    return f'{cfg_options({"load_from": str(runner._load_from)})} without --resume'


def _share(runner: Runner, end: int, by_epoch: bool) -> float:
    return end / (runner.max_epochs if by_epoch else runner.max_iters)


def _differences(place: str, state: dict, settings: dict) -> Iterator[str]:
    for key, value in settings.items():
        if key in state and state[key] != value:
            yield f'{place}.{key.removeprefix("initial_")}={state[key]} (config: {value})'


def _settings(schedule: _ParamScheduler) -> dict:
    return {
        key: value
        for key, value in schedule.state_dict().items()
        if key not in PROGRESS and not key.startswith('_')
    }


def _kind(schedule: _ParamScheduler) -> str:
    return type(schedule).__name__


def _by_name(schedules: list | dict | None) -> Iterable[tuple[str, list]]:
    """Schedules by the name of their optimizer, '' where there is one."""
    return schedules.items() if isinstance(schedules, dict) else [('', schedules or [])]


def _saved_groups(state: dict) -> Iterator[dict]:
    if 'param_groups' in state:
        yield from state['param_groups']
    else:
        for one in state.values():
            yield from one.get('param_groups', ()) if isinstance(one, dict) else ()
