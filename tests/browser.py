"""Pages in headless Chromium; where there is none, tests of them are skipped with a word."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from ldx.report.plots import COLOURS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTH = 1100  # pixels

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium is installed (apt-get install chromium)"
)


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Open a page in headless Chromium, with a profile of its own and no way to the network."""
    assert BROWSER
    quiet = "--disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --hide-scrollbars"
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(),
         f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--enable-logging=stderr", "--v=0", f"--window-size={WIDTH},3000", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def look_at(page: Path, folder: Path) -> Path:
    """Check that a page loads nothing and that text and plots are seen; its DOM as a file."""
    result = browse(page, folder, "--dump-dom")
    assert result.returncode == 0, result.stderr
    # The console has a line for whatever the page's policy refuses, and it refuses all loading.
    assert "CONSOLE" not in result.stderr, result.stderr
    dom = folder / "dom.html"
    dom.write_text(result.stdout)
    result = browse(page, folder, f"--screenshot={folder / 'page.png'}")
    assert result.returncode == 0, result.stderr
    image = matplotlib.image.imread(folder / "page.png")[:, :, :3]
    assert image.shape[1] == WIDTH
    ink = (np.abs(image - image[0, 0]).max(axis=2) > 0.2).any(axis=1)
    assert ink.mean() > 0.3  # of the lines have something on them
    colour = matplotlib.colors.to_rgb(COLOURS["trained"])
    assert (np.abs(image - colour).max(axis=2) < 0.02).sum() > 500
    return dom
