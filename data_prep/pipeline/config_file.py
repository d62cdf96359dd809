"""Passing the config of `data_prep.run.prepare` on to the processes of its stages, in a file.

A stage reads it with
--config=data_prep/pipeline/config_file.py:WORKDIR/prep/config_of_stages.json
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ldx.common.files import write_json

CONFIG_FILE_NAME = "config_of_stages.json"


def save_config(config: ConfigDict, folder: Path) -> str:
    """Save a config in a folder, and return the value of --config that reads it."""
    path = folder / CONFIG_FILE_NAME
    write_json(path, config.to_dict())
    return f"{Path(__file__)}:{path}"


def get_config(path: str) -> ConfigDict:
    """Read the config that `save_config` saved in the file `path`."""
    return ConfigDict(json.loads(Path(path).read_text(encoding="utf-8")))
