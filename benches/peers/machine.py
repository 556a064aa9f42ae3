"""What a report says of the machine and the tree that it is of."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed(command: list) -> str:
    """What a command prints; nothing where there is none such."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def commit() -> str:
    return printed(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown"


def machine(device: str) -> dict[str, str]:
    if device == "gpu":
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name, _, driver = printed(asked).partition(", ")
        return {"device": name, "driver": driver}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {"device": next(line.split(": ")[1] for line in lines if line.startswith("model name")), "driver": ""}
