"""x Wᵀ + b and its derivatives on a CPU, on weights cast once per step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F

# Whether oneDNN's products suit this processor (AVX-512 and newer). In float32, torch takes MKL,
# which does not use AVX-512 on AMD's processors; with AVX2, MKL is faster. In bf16, torch itself
# takes oneDNN.
BY_ONEDNN = (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
             and torch.ops.mkldnn._is_mkldnn_bf16_supported())
ALL_ROWS = slice(None)


class Cast(NamedTuple):
    """A weight in another dtype; and of which weight, in which of torch's versions of it."""

    weight: torch.Tensor
    source: torch.Tensor
    version: int


_casts: WeakKeyDictionary[nn.Linear, Cast] = WeakKeyDictionary()


@contextmanager
def weights_cast_once(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, products on a CPU in `dtype` reuse one cast of each linear layer's weight.

    A change that bumps the tensor's version counter invalidates the cast, as an optimizer or
    load_state_dict does. Others go unnoticed.
    """
    linears = [part for part in module.modules() if isinstance(part, nn.Linear)
               and part.weight.device.type == "cpu" and part.weight.dtype != dtype]
    for linear in linears:
        weight = linear.weight.detach()
        _casts[linear] = Cast(weight.to(dtype), weight, weight._version)

    try:
        yield
    finally:
        for linear in linears:
            _casts.pop(linear, None)


def _in_dtype(linear: nn.Linear, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The layer's weight in this dtype: its kept cast, if that is of the weight as it is now."""
    cast = _casts.get(linear)
    if (cast is not None and cast.weight.dtype == dtype
            and cast.source.data_ptr() == weight.data_ptr() and cast.version == weight._version):
        return cast.weight
    return weight.to(dtype)


def product(linear: nn.Linear, x: torch.Tensor, rows: slice = ALL_ROWS) -> torch.Tensor:
    """x Wᵀ + b in x's dtype: (tokens, in) → (tokens, out); for some rows of W and b only."""
    weight = _in_dtype(linear, linear.weight.detach(), x.dtype)[rows]
    bias = linear.bias.detach().to(x.dtype)[rows]
    return _product(x, weight, bias)


def input_gradient(linear: nn.Linear, grad: torch.Tensor, weight: torch.Tensor,
                   rows: slice = ALL_ROWS) -> torch.Tensor:
    """dL/dx = g W: (tokens, out) → (tokens, in). weight: W as it was in `product`."""
    return _product(grad, _in_dtype(linear, weight, grad.dtype)[rows].T)


def add_weight_gradient(place: torch.Tensor, grad: torch.Tensor, x: torch.Tensor) -> None:
    """place += gᵀ x, a weight's gradient: (tokens, out), (tokens, in) → (out, in)."""
    if grad.dtype != place.dtype:
        place.add_((grad.T @ x).to(place.dtype))  # cast first: adding across dtypes is slower
    elif BY_ONEDNN:
        place.add_(_product(grad.T, x.T))
    elif grad.shape[1] < x.shape[1]:
        place.T.addmm_(x.T, grad)  # measured: BLAS prefers a tall result to a wide one
    else:
        place.addmm_(grad.T, x)


def _product(x: torch.Tensor, weight: torch.Tensor,
             bias: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + b."""
    if BY_ONEDNN and x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
