"""The memory that this process may take."""

import os
import resource
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Bytes that this process may take: the machine's memory, or what a limit leaves of it.

    Limits are those of its control group, as containers and SLURM set them, and of `ulimit -v`.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine, *_cgroup_limits(_CGROUP, _MOUNT)]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def _cgroup_limits(cgroup: Path, mount: Path) -> list[int]:
    """The limits of this process's control groups, and of those that they are in."""
    limits = []
    for line in _lines(cgroup):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        # In a container the path may be that of the host; its root is then what is mounted here.
        for place in (folder, *folder.parents):
            limits += [int(line) for line in _lines(place / name) if line.isdigit()]
            if place == root:
                break
    return limits


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
