"""The attention module and its gates, which need only torch."""

from .cbam import CBAM, ORDERS, ChannelGate, SpatialGate
from .pooling import POOLS

__all__ = ['CBAM', 'ORDERS', 'POOLS', 'ChannelGate', 'SpatialGate']
