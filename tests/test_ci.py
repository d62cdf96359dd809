"""What CI runs, as far as it goes before its tools are there."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
TOOLS = ("bash", "dirname", "rm")


def run(folder: Path, **programs: str) -> subprocess.CompletedProcess:
    """Run a copy of the script where there are no programs but these, given as shell scripts."""
    (folder / "bin").mkdir()
    for name in TOOLS:
        (folder / "bin" / name).symlink_to(str(shutil.which(name)))
    for name, text in programs.items():
        path = folder / "bin" / name
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        path.chmod(0o755)
    (folder / "checkout" / ".ci").mkdir(parents=True)
    script = shutil.copy(SCRIPT, folder / "checkout" / ".ci" / "run")
    environment = {"PATH": str(folder / "bin"), "LDX_GOLDEN_DIR": "x", "LDX_DATA_DIR": "x"}
    return subprocess.run(["bash", script], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("command", ["update", "install"])
def test_without_a_browser_it_fails_and_says_why(tmp_path, command):
    apt_get = f'[ "$1" = {command} ] && echo "E: no route to host" >&2 && exit 100; exit 0'
    result = run(tmp_path, **{"apt-get": apt_get, "make": "echo made $1"})
    assert result.returncode == 1
    assert "E: no route to host" in result.stderr
    assert "error: Chromium is not here and could not be installed" in result.stderr
    assert "made" not in result.stdout


@pytest.mark.parametrize("browser", ["chromium", "chromium-browser"])
def test_a_browser_that_is_there_is_not_installed(tmp_path, browser):
    programs = {"apt-get": "echo asked >&2", browser: "", "make": "echo made $1; exit 7"}
    result = run(tmp_path, **programs)
    assert (result.returncode, result.stdout, result.stderr) == (7, "made lint\n", "")
