"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

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
    """auto: bf16 where the hardware multiplies it, which is faster there and as good (docs/performance.md), else fp32.

    That is CUDA from Ampere on, and x86 processors with AVX512-BF16 or AMX; others are not measured.
    """
    if name != "auto":
        return name
    return "bf16" if IN_HARDWARE.get(device.type, lambda device: False)(device) else "fp32"


def _processor_has_bf16(device: torch.device) -> bool:
    # torch's own names, which older releases lack: there, fp32 is taken
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(is_supported() for is_supported in asked if is_supported is not None)


# kind of device → whether it multiplies bf16 in hardware
IN_HARDWARE = {"cpu": _processor_has_bf16, "cuda": lambda device: torch.cuda.get_device_capability(device) >= (8, 0)}
BF16_NOTE = ("note:  matrix products in bf16, which this hardware makes faster, and as good; --precision fp32 takes "
             "them in full")


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16: matrix products in bf16 from fp32 weights, fp32 gradients. fp32: nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
