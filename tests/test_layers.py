"""The layout of both packages, read off their imports.

Two rules: at the root of a package stand its commands, and nothing else; every other file lies in a
folder that is named for a thing, and imports only folders below it.
"""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COMMANDS = {
    "ldx": ("train", "evaluate", "export", "search", "study"),
    "data_prep": (
        *("run", "corpus", "generate_queries", "generate_documents", "mine", "score"),
        *("calibrate", "grade", "write_tfrecords", "baselines"),
    ),
}
# The top floor first.
FLOORS = {
    "ldx": (
        *("studies", "report", "training", "step", "retrieval", "eval"),
        *("data", "models", "records", "parallel", "losses", "common"),
    ),
    "data_prep": (
        *("preflight", "lists", "documents", "teachers", "queries"),
        *("retrieval", "llm", "corpora", "pipeline", "engines"),
    ),
}
OPEN_TO_DATA_PREP = ("common", "records", "models", "data", "eval", "retrieval")


def modules(package):
    """Every module of a package: its name and its path."""
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


@functools.cache
def imports_of(package):
    """(module, imported module) for every import of our own, wherever in a file it stands."""
    known = {name for each in ("ldx", "data_prep", "configs") for name, _ in modules(each)}
    pairs = set()
    for name, path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [each if each in known else node.module for each in full]
            else:
                continue
            pairs |= {(name, target) for target in targets if target in known}
    return sorted(pairs)


def folder_of(module):
    """The folder of a module of ours, "" for a command."""
    parts = module.split(".")
    package = ROOT / parts[0]
    return parts[1] if len(parts) > 1 and (package / parts[1]).is_dir() else ""


@pytest.mark.parametrize("package", FLOORS)
def test_at_the_root_stand_commands_and_folders_of_the_plan(package):
    entries = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert entries == set(COMMANDS[package])
    assert folders == set(FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_a_folder_imports_only_folders_below_it(package):
    floors = FLOORS[package]
    upwards = [
        f"{importer} imports {imported}"
        for importer, imported in imports_of(package)
        if imported.split(".")[0] == package
        and (here := folder_of(importer))
        and (there := folder_of(imported)) != here
        and (not there or floors.index(there) < floors.index(here))
    ]
    assert not upwards


@pytest.mark.parametrize("package", FLOORS)
def test_no_command_imports_a_command(package):
    commands = {f"{package}.{name}" for name in COMMANDS[package]}
    assert not [pair for pair in imports_of(package) if commands.issuperset(pair)]


def test_data_prep_opens_only_these_doors_of_ldx():
    allowed = set(OPEN_TO_DATA_PREP)
    others = [
        f"{importer} imports {imported}"
        for importer, imported in imports_of("data_prep")
        if imported.partition(".")[0] == "ldx" and folder_of(imported) not in allowed
    ]
    assert not others


def test_ldx_needs_nothing_of_data_prep():
    """But for its face, which hands `ldx.prepare` on and imports it when it is called."""
    others = [pair for pair in imports_of("ldx") if pair[1].startswith("data_prep")]
    assert others == [("ldx", "data_prep.run")]


@pytest.mark.parametrize("package", FLOORS)
def test_no_circles(package):
    graph: dict[str, set[str]] = {}
    for importer, imported in imports_of(package):
        graph.setdefault(importer, set()).add(imported)
    done: set[str] = set()
    while ready := [m for m in graph if m not in done and not (graph[m] & graph.keys()) - done]:
        done.update(ready)
    assert not sorted(graph.keys() - done)
