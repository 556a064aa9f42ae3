"""On what something was measured, and of which commit."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed(command: list) -> str:
    try:
        return subprocess.run([str(word) for word in command], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def machine(device: str) -> dict[str, str | int]:
    """The GPU with its driver, or the processor with the cores that may be used."""
    if device == "gpu":
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name, _, driver = printed(asked).partition(", ")
        return {"device": name, "driver": driver}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return {"device": name, "driver": "", "cores": len(os.sched_getaffinity(0))}


def commit() -> str:
    """The tree's commit, or, where it was changed since, that it was."""
    changes = printed(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"])
    return (printed(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]) or "unknown") + (" and changes" if changes else "")
