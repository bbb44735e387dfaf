"""Networks with the CBAM of other implementations and with ours, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm
import torch
import torchvision
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS, DefaultScope
from pytorchcv.models import cbamresnet
from torch import Tensor, nn

NEEDED = {  # the options of our CBAM for the weights of each format
    'authors': dict(start='paper'),
    'pytorchcv': dict(start='paper', norm_cfg=dict(type='BN')),
    'timm': dict(start='paper', norm_cfg=dict(type='BN'), mlp_bias=False),
    'mmyolo': dict(start='paper', norm_cfg=None, conv_bias=True),
    'tutorial': dict(start='paper', norm_cfg=None, mlp_bias=False),
}


class Authors(nn.Module):
    """Jongchan/attention-module: maximum before mean, a norm, an MLP of linear layers."""

    def __init__(
        self,
        channels: int,
        ratio: int = 16,
        pool_types: Sequence[str] = ('avg', 'max'),
        no_spatial: bool = False,
    ) -> None:
        super().__init__()
        self.pool_types = pool_types
        layers = nn.Linear(channels, channels // ratio), nn.ReLU()
        self.ChannelGate = nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), *layers, nn.Linear(channels // ratio, channels)
        )
        self.SpatialGate = None if no_spatial else nn.Module()
        if no_spatial:
            return
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.SpatialGate.spatial.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        pools = dict(
            avg=lambda x: nn.functional.avg_pool2d(x, x.shape[2:]),
            max=lambda x: nn.functional.max_pool2d(x, x.shape[2:]),
            lp=lambda x: nn.functional.lp_pool2d(x, 2, x.shape[2:]),
            lse=lambda x: torch.logsumexp(x.flatten(2), 2),
        )
        logits = sum(self.ChannelGate.mlp(pools[kind](x)) for kind in self.pool_types)
        x = x * torch.sigmoid(logits)[:, :, None, None]
        if self.SpatialGate is None:
            return x
        spatial = self.SpatialGate.spatial
        maps = torch.cat([x.max(1)[0][:, None], x.mean(1)[:, None]], 1)
        return x * torch.sigmoid(spatial.bn(spatial.conv(maps)))


class MMYolo(nn.Module):
    """mmyolo: mean before maximum, no norm, biases everywhere, mmcv's ConvModules."""

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = channels // ratio
        self.channel_attention, self.spatial_attention = nn.Module(), nn.Module()
        self.channel_attention.fc = nn.Sequential(
            ConvModule(channels, hidden, 1), ConvModule(hidden, channels, 1, act_cfg=None)
        )
        self.spatial_attention.conv = ConvModule(
            2, 1, kernel_size, padding=kernel_size // 2, act_cfg=dict(type='Sigmoid')
        )

    def forward(self, x: Tensor) -> Tensor:
        fc = self.channel_attention.fc
        x = x * torch.sigmoid(fc(x.mean((2, 3), keepdim=True)) + fc(x.amax((2, 3), keepdim=True)))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.spatial_attention.conv(maps)


class Tutorial(nn.Module):
    """luuuyi/CBAM.PyTorch: mean before maximum, no norm, no bias; its first names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca, self.sa = nn.Module(), nn.Module()
        self.ca.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.ca.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)
        self.sa.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(
            sum(self.ca.fc2(torch.relu(self.ca.fc1(vector))) for vector in pooled)
        )
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.sa.conv1(maps))


def with_cbam(depth: int, module: Callable[[int], nn.Module]) -> nn.Module:
    """torchvision's ResNet with another CBAM before every addition, under that project's name."""
    net = getattr(torchvision.models, f'resnet{depth}')()
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            norm = block.bn3 if hasattr(block, 'bn3') else block.bn2
            cbam = module(norm.num_features)
            norm.register_forward_hook(lambda norm, args, output, cbam=cbam: cbam(output))
            if module is Tutorial:
                block.ca, block.sa = cbam.ca, cbam.sa
            else:
                block.cbam = cbam
    return net


def small_images(net: nn.Module) -> nn.Module:
    """Replace the final 7x7 pooling in pytorchcv's network, which is too large for small images."""
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net


MAKERS: dict[str, Callable[[int], nn.Module]] = {
    'authors': lambda depth: with_cbam(depth, Authors),
    'pytorchcv': lambda depth: small_images(getattr(cbamresnet, f'cbam_resnet{depth}')()),
    'timm': lambda depth: timm.create_model(
        f'resnet{depth}', block_args=dict(attn_layer='cbam'), zero_init_last=False
    ),
    'mmyolo': lambda depth: with_cbam(depth, MMYolo),
    'tutorial': lambda depth: with_cbam(depth, Tutorial),
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    'authors': lambda: Authors(48, ratio=8),
    'pytorchcv': lambda: cbamresnet.CbamBlock(48, 8),
    'timm': lambda: timm.layers.cbam.CbamModule(
        24, spatial_kernel_size=3
    ),  # 1.5 hidden channels, which timm rounds to 2
    'mmyolo': lambda: MMYolo(48, ratio=5, kernel_size=3),
    'tutorial': lambda: Tutorial(48),
}


def randomised(net: nn.Module) -> nn.Module:
    """Random parameters and buffers, small enough that the gates are not saturated."""
    for name, value in net.state_dict().items():
        if name.endswith('num_batches_tracked'):
            value.random_(1, 1000)
        elif name.endswith('running_var'):
            value.uniform_(2, 6)
        elif value.dim() == 1:
            value.uniform_(*((0.5, 1.5) if name.endswith('weight') else (-0.3, 0.3)))
        elif value.dim() > 1:
            value.normal_(std=value[0].numel() ** -0.5)
    net.eval()  # mmdet's eval() returns None
    return net


def build(
    depth: int, options: dict, layout: str = 'inserted', **options_of_resnet: object
) -> nn.Module:
    """mmdet's ResNet with a CBAM of these options before every addition."""
    last = 3 if depth > 34 else 2
    cfg = dict(type='CBAM', **options)
    entry = dict(cfg=cfg, after=f'layer*.*.bn{last}')
    if layout == 'plugins':
        entry = dict(cfg=cfg, stages=(True,) * 4, position='after_conv3')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='WithPlugins',
                base_type='ResNet',
                depth=depth,
                plugins=[entry],
                **options_of_resnet,
            )
        )


def stages(net: nn.Module, image: Tensor) -> list[Tensor]:
    """The outputs of the four stages of a ResNet from any library."""
    outputs: list[Tensor] = []
    parts = [
        getattr(net, f'layer{i}', None) or getattr(net.features, f'stage{i}') for i in range(1, 5)
    ]
    hooks = [
        part.register_forward_hook(lambda module, args, output: outputs.append(output))
        for part in parts
    ]
    with torch.no_grad():
        net(image)
    for hook in hooks:
        hook.remove()
    return outputs


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same keys, dtypes and bitwise equal values."""
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key])
        for key in first
    )
