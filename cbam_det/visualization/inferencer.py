"""mmdet's inferencer for a model whose weights are loaded and checked."""

from __future__ import annotations

from collections.abc import Callable

from mmdet.apis import DetInferencer
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import nn

from ..apis.inference import Predictor, check_detector, transforms_of_test
from ..utils.config import kind_of
from ..utils.errors import InputError


class Inferencer(DetInferencer):
    """mmdet's inferencer with the model of a `Predictor`, which has checked its weights.

    Args:
        predictor: a detector with its weights.

    Raises:
        InputError: it is not a detector, or the test pipeline of its config reads no image files.
    """

    def __init__(self, predictor: Predictor) -> None:
        check_detector(predictor)
        self._model = predictor.model
        self._model.dataset_meta = dict(classes=predictor.classes, palette='random')
        super().__init__(model=predictor.cfg, show_progress=False)

    def _init_pipeline(self, cfg: Config) -> Compose:
        transforms = transforms_of_test(cfg)
        for transform in transforms:
            if kind_of(transform) == 'LoadImageFromFile':
                transform['type'] = 'mmdet.InferencerLoader'  # reads arrays too
                return Compose(transforms)
        raise InputError(
            f'the pipeline of {cfg.filename} has no LoadImageFromFile, which is replaced to read '
            'videos; give test_dataloader.dataset.pipeline one'
        )

    def _init_visualizer(self, cfg: Config) -> DetLocalVisualizer:
        cfg.visualizer = cfg.get('visualizer') or dict(type='mmdet.DetLocalVisualizer')
        return super()._init_visualizer(cfg)

    def _init_collate(self, cfg: object) -> Callable:
        return pseudo_collate

    def _init_model(self, cfg: object, weights: object, device: object = None) -> nn.Module:
        return self._model
