"""The attention module and its gates. Torch alone is needed."""

from .cbam import CBAM, ORDERS, ChannelGate, SpatialGate
from .pooling import POOLS

__all__ = ['CBAM', 'ORDERS', 'POOLS', 'ChannelGate', 'SpatialGate']
