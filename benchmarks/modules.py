"""Compare CBAM with other implementations. This file needs only torch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_det.models.layers import CBAM
from cbam_det.utils.time_and_memory import MIB, alternate, memory

# The outputs of a ResNet-50's stages for two images of 800 x 800.
SHAPES = ((2, 256, 200, 200), (2, 512, 100, 100), (2, 1024, 50, 50), (2, 2048, 25, 25))


class AuthorsForm(nn.Module):
    """The module in the form of its authors (pooling layers, `expand_as`), for comparison."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        size = x.shape[2:]
        pooled = self.mlp(F.avg_pool2d(x, size, stride=size))
        pooled = pooled + self.mlp(F.max_pool2d(x, size, stride=size))
        x = x * torch.sigmoid(pooled)[:, :, None, None].expand_as(x)
        maps = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
        return x * torch.sigmoid(self.norm(self.conv(maps)))


def contenders(channels: int, compiled: bool) -> dict[str, nn.Module]:
    """The implementations by name; those of timm and pytorchcv if they are installed.

    Args:
        channels: channels C of the input.
        compiled: add timm's and ours with `torch.compile`; each takes up to a minute to compile.
    """
    modules: dict[str, nn.Module] = {
        'cbam_det': CBAM(channels, start='paper', memory_efficient=True),
        'cbam_det, memory_efficient=False': CBAM(channels, start='paper', memory_efficient=False),
        "authors' form": AuthorsForm(channels),
    }
    with contextlib.suppress(ImportError):
        from timm.layers.cbam import CbamModule

        modules['timm'] = CbamModule(channels)
        if compiled:
            modules['timm, compiled'] = torch.compile(copy.deepcopy(modules['timm']))
    with contextlib.suppress(ImportError):
        from pytorchcv.models.cbamresnet import CbamBlock

        modules['pytorchcv'] = CbamBlock(channels)
    if compiled:
        modules['cbam_det, compiled'] = CBAM(channels, start='paper')
        modules['cbam_det, compiled'].compile(dynamic=True)
    return modules


def modules(
    shapes: Iterable[tuple[int, int, int, int]],
    rounds: int,
    device: str,
    compiled: bool,
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict]:
    """Time and memory of each implementation, for each shape and memory format.

    Maps of float16 and bfloat16 are processed under autocast, as `--amp` trains.

    Yields:
        'shape'; 'format'; 'copy_ms' (time to copy the map into new memory); and 'rows': by
        implementation 'train_ms' (forward and backward) and 'infer_ms', as median and quartiles,
        and 'kept' (for the backward pass), 'train_peak' and 'infer_peak' in MiB, without the input,
        the output and their gradients.
    """
    for shape in shapes:
        for layout in (torch.contiguous_format, torch.channels_last):
            torch._dynamo.reset()  # after too many compilations torch would run uncompiled code
            x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout)
            x.requires_grad_()
            g = torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout)
            models = {
                name: model.to(device) for name, model in contenders(shape[1], compiled).items()
            }
            train = {name: training(model, x, g) for name, model in models.items()}
            infer = {name: inference(model, x) for name, model in models.items()}
            clone = {'copy': lambda x=x: x.detach().clone()}
            times = [alternate(calls | clone, rounds, device) for calls in (train, infer)]
            size = x.numel() * x.element_size() / MIB
            rows = {}
            for name in models:
                kept, train_peak = memory(train[name], device)
                # Subtract the output and the input's gradient, or the output alone.
                _, infer_peak = memory(infer[name], device)
                rows[name] = dict(
                    train_ms=times[0][name],
                    infer_ms=times[1][name],
                    kept=round(kept - size, 1),
                    train_peak=round(train_peak - 2 * size, 1),
                    infer_peak=round(infer_peak - size, 1),
                )
            yield dict(
                shape=list(shape),
                format='contiguous' if layout == torch.contiguous_format else 'channels_last',
                map_mib=round(size, 1),
                copy_ms=times[1]['copy'],
                rows=rows,
            )


def training(model: nn.Module, x: Tensor, g: Tensor) -> Callable[[], None]:
    """A forward and backward pass, or the forward pass alone, to call with `alternate`."""

    def step(forward_alone: bool = False) -> Tensor | None:
        model.train()
        with _autocast(x):
            y = model(x)
        if forward_alone:
            return y
        y.backward(g.to(y.dtype))
        x.grad = None
        model.zero_grad()
        return None

    return step


def inference(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """A forward pass without gradients, to call with `alternate`."""

    def step(forward_alone: bool = False) -> Tensor:
        model.eval()
        with torch.no_grad(), _autocast(x):
            return model(x)

    return step


def _autocast(x: Tensor) -> torch.autocast:
    is_half = x.dtype != torch.float32
    return torch.autocast(x.device.type, x.dtype if is_half else None, enabled=is_half)
