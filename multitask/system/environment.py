"""What a run was computed on: versions, hardware, the commit."""

import platform
import subprocess
from datetime import datetime
from pathlib import Path

import torch

from minbert import __version__
from multitask.commands import typed

ROOT = Path(__file__).parents[2]


def environment(device: torch.device, precision: str) -> dict:
    """The `environment` of metrics.json and report.html; `commit` only in a git checkout."""
    about = {
        **invocation(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "machine": platform.machine(),
    }
    commit = git_commit()
    if commit is not None:
        about["commit"] = commit
    return about


def invocation() -> dict[str, str]:
    """Date, minbert's version and, unless other Python code called it, the command."""
    now = datetime.now().astimezone().isoformat(" ", "minutes")
    about = {"date": now, "minbert": __version__}
    command = typed()
    return {**about, "command": command} if command else about


def device_name(device: torch.device) -> str:
    """cuda (NVIDIA …), cpu (AMD EPYC …)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return f"{device} ({name})" if name else str(device)


def processor_name() -> str:
    """The processor's own name; empty if it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()

    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return ""


def git_commit() -> str | None:
    """The checkout's commit, with -dirty if files have changed; None without git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12",
               "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
