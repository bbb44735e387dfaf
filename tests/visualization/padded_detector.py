"""A detector whose boxes depend on how far its images are padded, as those near an edge do."""

from __future__ import annotations

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn


@MODELS.register_module()
class PaddedDetector(BaseModel):
    """Detects every object beside its place, the further the more its image is padded."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor, data_samples: list, mode: str = 'tensor') -> list:
        for sample in data_samples:
            padded = (
                inputs.shape[-1] * inputs.shape[-2] / (sample.img_shape[0] * sample.img_shape[1])
            )
            random = torch.Generator().manual_seed(int(sample.img_id))
            boxes = torch.tensor([one['bbox'] for one in sample.instances], dtype=torch.float)
            sample.pred_instances = InstanceData(
                bboxes=boxes + 5 * padded * torch.rand(len(boxes), 4, generator=random),
                labels=torch.tensor([one['bbox_label'] for one in sample.instances]),
                scores=torch.rand(len(boxes), generator=random),
            )
        return data_samples
