"""Configs as users give them: a ConfigDict, its plain form, or the path of its file."""

import contextlib
import difflib
import json
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from ldx.common.errors import UserError
from ldx.common.sections import flatten_config

Config: TypeAlias = ConfigDict | Mapping[str, Any] | str | Path
"""An experiment: as its file makes it, in its plain form, or the path of its file."""

NO_CONFIGS = ("__init__.py", "base.py", "common.py", "recipes.py")
"""The files of configs/ that others import, and that are no configs themselves."""


def load_config(path: str | Path) -> ConfigDict:
    """The config of a file such as "configs/demo.py" or "configs/demo.py:smoke".

    Raises:
      UserError: there is no such file, or no such variant, or the file is no config.
    """
    name, _, argument = str(path).partition(":")
    check_config_path(name)
    try:
        with importable_configs(name):
            names = runpy.run_path(name)
            if "get_config" not in names:
                raise UserError(f"{name}: it has no function get_config, so it is no config")
            return names["get_config"](*[argument] if argument else [])
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise explain_missing_config(error) or UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever a file of the user's raises is about that file
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error


def check_config_path(path: str | Path) -> None:
    """Check that there is a config's file at a path.

    Raises:
      UserError: there is none; the message names what may have been meant.
    """
    path = Path(path)
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: there is no folder {folder} (the working folder is {Path.cwd()})")
    names = sorted(file.name for file in folder.glob("*.py") if file.name not in NO_CONFIGS)
    problem = "a folder" if path.is_dir() else "no such file"
    if near := difflib.get_close_matches(path.name, names, 1):
        raise UserError(f"{path}: {problem}; did you mean {folder / near[0]}?")
    others = ", ".join(str(folder / name) for name in names)
    raise UserError(f"{path}: {problem}; the configs there are {others or 'none'}")


@contextlib.contextmanager
def importable_configs(path: str | Path) -> Iterator[None]:
    """Let a config's file import `configs`, wherever the program works; sys.path is as before then.

    What the program finds by itself comes first, then the folder `configs` that the file is in,
    then the one in the folder of ldx.

    Args:
      path: the config's file.
    """
    above = Path(path).absolute().parents
    places = [folder.parent for folder in above if folder.name == "configs"][:1]
    places.append(Path(__file__).parents[2])
    added = [str(place) for place in places if str(place) not in sys.path]
    sys.path += added
    try:
        yield
    finally:
        for place in added:
            sys.path.remove(place)


def plain_config(config: Config, sections: Sequence[str]) -> dict[str, Any]:
    """The plain form of an experiment: nested dicts.

    Args:
      config: any of its forms.
      sections: those that it must have; `seed`, a number, counts as one.

    Raises:
      UserError: it is a study, lacks a section, or its file cannot be read.
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    if not isinstance(config, ConfigDict | Mapping):
        raise UserError(f"config={config!r}: wanted a config, or the path of its file")
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    if "study" in plain:
        raise UserError("this config is a study; run it with python -m ldx.study")
    for name in sections:
        if name not in plain:
            raise UserError(f"config.{name} is missing; configs/base.py explains it")
        if name != "seed" and not isinstance(plain[name], Mapping):
            raise UserError(f"config.{name}={plain[name]!r}: wanted a section with keys")
    return plain


def changes_from_base(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """The settings that differ from those of configs/base.py, a line each.

    All are shown where the config was made without that file. Those that were "auto" in `config`
    and are a number in `resolved` are marked.
    """
    base = base_settings()
    unresolved = flatten_config(config)
    lines = []
    for key, value in _flat_json(resolved).items():
        if key not in base or value != base[key]:
            mark = "  (auto)" if unresolved.get(key) == "auto" else ""
            lines.append(f"  {key} = {value!r}{mark}")
    return "\n".join(lines)


def base_settings() -> dict[str, Any]:
    """The settings of configs/base.py by dotted key; none where the config was made without it."""
    module = sys.modules.get("configs.base")
    return _flat_json(module.get_config().to_dict()) if module else {}


def _flat_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as JSON has them: tuples are lists."""
    return flatten_config(json.loads(json.dumps(config)))


def explain_missing_config(error: ModuleNotFoundError) -> UserError | None:
    """The mistake of a config that imports another one where there is none; None: another error."""
    if not error.name or error.name.partition(".")[0] != "configs":
        return None
    return UserError(
        f"the config imports {error.name}, and there is no such file; configs is a folder of ldx's "
        "source: put the config into it, or the folder that configs is in into PYTHONPATH"
    )
