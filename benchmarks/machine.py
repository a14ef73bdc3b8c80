"""What a measurement must say of where and when it was taken."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from itda.run import provenance

ROOT = Path(__file__).resolve().parent.parent
CPUINFO = Path("/proc/cpuinfo")


def circumstances() -> dict[str, Any]:
    """Name the commit, the machine and the date; `dirty` says that the checkout held changes beyond the commit."""
    return {
        "commit": provenance()["commit"],
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": describe_machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def describe_machine() -> dict[str, Any]:
    """Name the processor, the cores that this process may use, and the versions that decide speed."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu_model(CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_model(cpuinfo: str) -> str:
    """Read the processor's name from the text of /proc/cpuinfo, or ask Python where there is none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        found = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.decode("utf-8", "replace").strip()
