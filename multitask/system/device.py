"""Where to compute, and in which precision."""

from contextlib import AbstractContextManager

import torch

from minbert.fast.linear import BY_ONEDNN

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")
PRODUCT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of matrix products
WIDE = 384  # hidden size from which bf16 was measured to be faster on a CPU; at 128 it was slower
PRECISION_HELP = ("precision of the matrix products; auto takes bf16 on GPUs that support it, and "
                  f"on CPUs with bf16 instructions for hidden sizes from {WIDE}, else fp32 "
                  "(default: auto)")


def pick_device(name: str) -> torch.device:
    """The named device; auto is CUDA if present, else the CPU (no Mac has tested MPS).

    Raises:
        ValueError: torch does not find that device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise ValueError(f"--device {name}: torch sees no such device here; use --device cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device, hidden_size: int) -> str:
    """fp32 or bf16; auto is bf16 where the hardware has it, on a CPU only from hidden size WIDE on.

    docs/explanation/performance.md has the measurements.
    """
    if name != "auto":
        return name

    if device.type == "cuda":
        in_hardware = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and newer
    else:
        in_hardware = device.type == "cpu" and cpu_has_bf16() and hidden_size >= WIDE
    return "bf16" if in_hardware else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 itself."""
    return BY_ONEDNN and torch.cpu._is_avx512_bf16_supported()


def precision_note(precision: str, device: torch.device) -> str:
    """The line that tells the user about bf16; empty for fp32."""
    if precision != "bf16":
        return ""
    if device.type == "cpu" and not cpu_has_bf16():
        return ("note:  this processor has no bf16 products that torch knows of: --precision fp32 "
                "is faster")
    return ("note:  matrix products in bf16, which this device has in hardware; --precision fp32 "
            "takes them in full")


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16: matrix products in bf16 from fp32 weights, gradients in fp32. fp32: nothing."""
    # a CUDA graph would keep the weights that were cast before it
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16",
                          cache_enabled=device.type == "cpu")
