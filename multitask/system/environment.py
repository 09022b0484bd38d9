"""On what a run was computed: versions, hardware, the commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def environment(device: torch.device, precision: str) -> dict:
    """What metrics.json and report.html say of the machine and the code; `commit` only in a git checkout."""
    commit = git_commit()
    return {"torch": torch.__version__, "python": platform.python_version(), "device": device_name(device),
            "threads": torch.get_num_threads(), "precision": precision, "machine": platform.machine(),
            **({} if commit is None else {"commit": commit})}


def device_name(device: torch.device) -> str:
    """cuda (NVIDIA …), cpu (AMD EPYC …)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return f"{device} ({name})" if name else str(device)


def processor_name() -> str:
    """What the processor calls itself; empty where it cannot be found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def git_commit() -> str | None:
    """The checkout's commit, -dirty if files have changed since; None for an installed package or without git."""
    if not (ROOT / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12",
                                "--exclude=*"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
