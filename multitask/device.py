"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from minbert.linear import MULTIPLIES_BF16

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")
PRODUCT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of matrix products


def pick_device(name: str) -> torch.device:
    """auto: CUDA, else the CPU; Apple's MPS is untested and only taken by name. ValueError for what is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise ValueError(f"--device {name}: torch sees no such device here; use --device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """auto: bf16 on a CUDA device that has it in hardware, fp32 elsewhere; why not on a CPU: docs/performance.md."""
    if name != "auto":
        return name
    in_hardware = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and newer
    return "bf16" if in_hardware else "fp32"


def precision_note(precision: str, device: torch.device) -> str:
    """What a run's first lines say of its precision: that it is bf16, and where that is in vain; empty for fp32."""
    if precision != "bf16":
        return ""
    if device.type == "cpu" and not MULTIPLIES_BF16:
        return "note:  this processor has no bf16 products that torch knows of: --precision fp32 is many times faster"
    return "note:  matrix products in bf16, which this device has in hardware; --precision fp32 takes them in full"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16: matrix products in bf16 from fp32 weights, fp32 gradients. fp32: nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
