"""Write attention maps of the same images after each validation by MMEngine's visualizer."""

from __future__ import annotations

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...models.built_model import in_eval_mode, unwrapped
from ...utils.errors import InputError


@HOOKS.register_module()
class AttentionMapsHook(Hook):
    """Writes the attention maps of all CBAMs after each validation, one page per image.

    The pages go to `vis_data/vis_image` and to the other backends of the visualizer, such as
    TensorBoard. Add the hook in a config by
    `default_hooks = dict(attention_maps=dict(type='AttentionMapsHook'))`, or in a command by
    `--cfg-options default_hooks.attention_maps.type=AttentionMapsHook`.

    Args:
        count: the number of images, evenly spaced in the validation data, 1 or more.
        interval: write after every this many validations, 1 or more.

    Raises:
        ValueError: `count` or `interval` is below 1.
        InputError: before the training, if the model has no CBAM or the run has no validation.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook swaps the validated weights back

    def __init__(self, count: int = 2, interval: int = 1) -> None:
        for option, value in (('count', count), ('interval', interval)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{option}={value!r} must be a whole number of 1 or more')
        self.count, self.interval = count, interval
        self._validations = 0

    def before_train(self, runner: Runner) -> None:
        """Check the model and the config before the first step."""
        from ...visualization.attention import cbams

        cbams(unwrapped(runner.model))
        if runner.val_loop is None:
            raise InputError(
                'AttentionMapsHook writes after each validation, but this run has no validation; '
                'set val_dataloader, val_cfg and val_evaluator, or remove the hook'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the pages."""
        self._validations += 1
        if self._validations % self.interval == 0:
            self._write(runner)

    @master_only
    def _write(self, runner: Runner) -> None:
        from ...apis.inference import PreparedImage, read_image
        from ...visualization.attention import gates, gates_page
        from ...visualization.detections import evenly_spaced
        from ...visualization.figures import pixels

        dataset = runner.val_loop.dataloader.dataset
        model = unwrapped(runner.model)
        with in_eval_mode(model):
            for number, index in enumerate(evenly_spaced(len(dataset), self.count)):
                path = dataset.get_data_info(index)['img_path']
                prepared = PreparedImage.from_packed(read_image(path), dataset[index], model)
                picture = pixels(gates_page(prepared, gates(model, prepared.data)))
                runner.visualizer.add_image(f'attention_{number}', picture, runner.iter)
