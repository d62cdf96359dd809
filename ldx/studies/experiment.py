"""The experiment of a cell as a file that `python -m ldx.train --config=FILE` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldx.common.files import atomic_write, write_json

EXPERIMENT_NAME = "experiment.py"

_TEXT = '''"""The experiment of experiment.json, written by python -m ldx.study."""

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """What experiment.json holds."""
    path = Path(__file__).with_suffix(".json")
    return ConfigDict(json.loads(path.read_text(encoding="utf-8")))
'''


def write_experiment(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write FOLDER/experiment.json and experiment.py; the path of the latter."""
    path = folder / EXPERIMENT_NAME
    write_json(path.with_suffix(".json"), config)
    with atomic_write(path) as file:
        file.write(_TEXT)
    return path


def canonical(config: Any) -> str:
    """A config as text, for fingerprints; equal configs have equal texts."""
    return json.dumps(config, sort_keys=True, default=list)
