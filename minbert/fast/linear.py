"""x Wᵀ + b and its derivative, as fast as a CPU has them: by oneDNN where torch has it, weights cast once a step.

To everyone else a Linear is torch's own; minbert/fast/layer.py calls `product`, `input_gradient`, `add_product`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Whether oneDNN has bf16 products for this processor (AVX-512 and newer); elsewhere it refuses, and torch is slow.
MULTIPLIES_BF16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_ONEDNN_DTYPES = (torch.float32, torch.bfloat16) if MULTIPLIES_BF16 else (torch.float32,)
ALL_ROWS = slice(None)


class Cast(NamedTuple):
    """Weight and bias in another dtype; and of which weight, in which of torch's versions of it."""

    weight: torch.Tensor
    bias: torch.Tensor
    source: torch.Tensor
    version: int

    def stands_for(self, weight: torch.Tensor, dtype: torch.dtype) -> bool:
        return (self.weight.dtype == dtype and self.source.data_ptr() == weight.data_ptr()
                and self.version == weight._version)


class Linear(nn.Linear):
    """nn.Linear with its products and gradients as functions of their own.

    cast: weight and bias in the dtype of the products, where `weights_cast_once` made them ahead.
    """

    cast: Cast | None = None

    def in_dtype(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias, without their graph."""
        if self.cast is not None and self.cast.stands_for(self.weight, dtype):
            return self.cast.weight, self.cast.bias
        return self.weight.detach().to(dtype), self.bias.detach().to(dtype)

    def product(self, x: torch.Tensor, rows: slice = ALL_ROWS) -> torch.Tensor:
        """x Wᵀ + b in x's dtype: (tokens, in) → (tokens, out); of some rows of W and b only."""
        weight, bias = self.in_dtype(x.dtype)
        return _product(x, weight[rows], bias[rows])

    def input_gradient(self, grad: torch.Tensor, weight: torch.Tensor, rows: slice = ALL_ROWS) -> torch.Tensor:
        """dL/dx = g W: (tokens, out) → (tokens, in); of some rows of W only. weight: W as it was in `product`."""
        is_cast = self.cast is not None and self.cast.stands_for(weight, grad.dtype)
        weight = (self.cast.weight if is_cast else weight.to(grad.dtype))[rows]
        if weight.shape[0] >= weight.shape[1] or not _by_onednn(grad):
            return grad @ weight
        return _product(grad, weight.T.contiguous())  # measured: faster than BLAS where the result is wide


def add_product(place: torch.Tensor, grad: torch.Tensor, x: torch.Tensor) -> None:
    """Adds a weight's gradient gᵀ x, (tokens, out), (tokens, in) → (out, in), to what is in its place.

    Measured: BLAS and oneDNN prefer a tall result to a wide one.
    """
    if grad.shape[1] < x.shape[1]:
        place, grad, x = place.T, x, grad
    if grad.dtype == place.dtype:
        place.addmm_(grad.T, x)
    else:
        place.add_((grad.T @ x).to(place.dtype))  # cast apart: adding across dtypes is slower


def _by_onednn(x: torch.Tensor) -> bool:
    return _HAS_ONEDNN and x.device.type == "cpu" and x.dtype in _ONEDNN_DTYPES


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


@contextmanager
def weights_cast_once(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, on a CPU, the linear layers' products in `dtype` take one cast of their weights. Weights must not change
    there but in ways that torch counts, as by load_state_dict or its optimizers: those are cast anew for each product.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Linear) and layer.weight.device.type == "cpu"
              and layer.weight.dtype != dtype]
    for layer in layers:
        weight = layer.weight.detach()
        layer.cast = Cast(weight.to(dtype), layer.bias.detach().to(dtype), weight, weight._version)
    try:
        yield
    finally:
        for layer in layers:
            layer.cast = None
