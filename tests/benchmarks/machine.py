"""Describes the machine of a measurement: figures of different machines, disks or versions are not comparable."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import apsw


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return the processor, the file system of a folder, and the versions of everything that matters."""
    device, kind = _filesystem(folder)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": kind,
        "device": device,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        **{name: metadata.version(name) for name in ("commitcast", "msgspec", "pykka", "websockets")},
    }


def resident_bytes() -> int:
    """Return how much memory this process has."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.machine())


def _filesystem(folder: Path) -> tuple[str, str]:
    """Return the device and the type of the file system that a folder is on."""
    best = ("", "unknown", "unknown")
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    where = folder.resolve()
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")  # proc(5): a space is \040
        kind, device = after.split()[:2]
        if where.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1], best[2]
