"""Task heads, and the paper's three architectures as a table."""

from .architectures import ARCHITECTURES, Architecture
from .layers import OneLayerHead, TwoLayerHead

__all__ = ["ARCHITECTURES", "Architecture", "OneLayerHead", "TwoLayerHead"]
