"""Task heads, and the table of architectures."""

from .architectures import ARCHITECTURES, Architecture
from .layers import OneLayerHead, TwoLayerHead

__all__ = ["ARCHITECTURES", "Architecture", "OneLayerHead", "TwoLayerHead"]
