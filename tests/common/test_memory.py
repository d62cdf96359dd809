"""The memory that a process may take, whatever limits it."""

import os
import subprocess
import sys

import pytest

from ldx.common.memory import _cgroup_limits, memory_limit


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "files", "limits"),
    [
        ("0::/job\n", {"job/memory.max": "4096"}, [4096]),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "4096"}, [4096]),
        # In a container, the path is that of the host, and its own limit is that of the root.
        ("0::/docker/1234\n", {"memory.max": "8192\n"}, [8192]),
        ("5:memory:/j\n3:cpu:/j\n", {"memory/j/memory.limit_in_bytes": "77"}, [77]),
        ("", {}, []),
    ],
)
def test_limits_of_control_groups(tmp_path, cgroup, files, limits):
    write(tmp_path / "cgroup", cgroup)
    for name, text in files.items():
        write(tmp_path / "mount" / name, text)
    assert _cgroup_limits(tmp_path / "cgroup", tmp_path / "mount") == limits


def test_it_is_no_more_than_the_machine_has():
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_limit() <= machine


def test_a_limit_of_the_shell_counts():
    limit = 2**30
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
        "from ldx.common.memory import memory_limit; print(memory_limit())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(result.stdout) == limit
