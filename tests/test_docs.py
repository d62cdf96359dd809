"""What the pages name exists: files, modules, and the pages they lead to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [
    path
    for folder in ("ldx", "data_prep", "configs")
    for suffix in ("*.py", "*.toml")
    for path in sorted((ROOT / folder).rglob(suffix))
]
FOLDERS = "ldx|data_prep|tests|configs|docs"
FILE = re.compile(rf"(?<![\w/.<])((?:{FOLDERS})/[\w/]+\.(?:py|md|toml|svg|png))")
MODULE = re.compile(r"(?<![\w/.])((?:ldx|data_prep)(?:\.[a-z]\w*)+)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
FUNCTIONS = {"load", "load_config", "prepare"}  # of ldx, which are modules of no such name
NO_FILES = ("NAME", "pointwise.py")  # placeholders, and the example of a new loss


def is_module(name):
    """Whether a dotted name begins with a module of ours: of more than the package."""
    parts = name.split(".")
    if parts[0] == "ldx" and parts[1] in FUNCTIONS:
        return True
    paths = [ROOT.joinpath(*parts[:length]) for length in range(2, len(parts) + 1)]
    return any(path.with_suffix(".py").is_file() or path.is_dir() for path in paths)


@pytest.mark.parametrize("path", [*PAGES, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_exists(path):
    text = path.read_text(encoding="utf-8")
    files = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    files = [name for name in files if not any(part in name for part in NO_FILES)]
    modules = [m for m in MODULE.findall(text) if not m.endswith(".md") and not is_module(m)]
    links = [link for link in LINK.findall(text) if not (path.parent / link).exists()]
    assert (files, modules, links if path.suffix == ".md" else []) == ([], [], [])


def test_the_table_of_data_prep_names_files_of_today():
    text = (ROOT / "docs" / "data_prep.md").read_text(encoding="utf-8")
    table = text.partition("## Where things are")[2].partition("\n## ")[0]
    names = re.findall(r"`([\w/]+\.py)`", table)
    assert names
    known = [str(path) for path in (ROOT / "data_prep").rglob("*.py")]
    known += [str(path) for path in (ROOT / "ldx").rglob("*.py")]
    assert not [name for name in names if not any(path.endswith(f"/{name}") for path in known)]
