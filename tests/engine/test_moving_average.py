"""A moving average of the weights: its formula, and what is validated and saved."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset

from cbam_det.engine.runner import CheckedRunner
from cbam_det.models.layers import CBAM
from cbam_det.utils.config import override

from .random_attention import randomise


class Images(Dataset):
    """Twelve maps by their number."""

    metainfo = dict(classes=('one',))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        inputs = torch.arange(float(4 * 6 * 6)).view(4, 6, 6).mul(index + 1).sin()
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=dict(img_path='')))


class Attended(BaseModel):
    """A CBAM; it notes its weights before each step and in each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.cbam = CBAM(4, 2)
        randomise(self)
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []

    def forward(self, inputs: list, data_samples: list, mode: str = 'tensor') -> object:
        y = self.cbam(torch.stack(list(inputs)))
        weights = nn.utils.parameters_to_vector(self.parameters()).detach().clone()
        (self.trained if mode == 'loss' else self.validated).append(weights)
        return dict(loss=(y - 1).square().mean()) if mode == 'loss' else [dict()] * len(y)


class Nothing(BaseMetric):
    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(images=len(results))


def test_moving_average_follows_its_formula_and_is_what_is_validated_and_saved(tmp_path):
    """a <- (1 - m) a + m w after each step but the first, a = w; the training goes on from w."""
    loader = dict(dataset=Images(), batch_size=4, num_workers=0)
    options = {'default_hooks.ema.type': 'EMAHook', 'default_hooks.ema.momentum': 0.25}
    cfg = override(Config(dict(default_hooks=dict())), options)
    runner = CheckedRunner(
        model=Attended(),
        work_dir=str(tmp_path),
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        val_evaluator=[Nothing()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
        default_hooks=cfg.default_hooks,
        experiment_name=f'ema_{tmp_path.name}',
    )
    model = runner.train()
    after = [*model.trained[1:], nn.utils.parameters_to_vector(model.parameters()).detach()]
    average, wanted = after[0], [after[0]]
    for weights in after[1:]:
        average = 0.75 * average + 0.25 * weights
        wanted.append(average)
    torch.testing.assert_close(model.validated[0], wanted[2])
    torch.testing.assert_close(model.validated[-1], wanted[5])
    assert (wanted[5] - after[5]).norm() > 0.01
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    saved = [state[name].flatten() for name, _ in model.named_parameters()]
    torch.testing.assert_close(torch.cat(saved), wanted[5])
