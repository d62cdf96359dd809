"""The config that `data_prep.run.prepare` was given, for the processes of its stages.

--config=data_prep/pipeline/config_file.py:WORKDIR/prep/config_of_stages.json
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ldx.common.files import write_json

CONFIG_FILE_NAME = "config_of_stages.json"


def save_config(config: ConfigDict, folder: Path) -> str:
    """Keep a config in a folder; the value of --config that reads it."""
    path = folder / CONFIG_FILE_NAME
    write_json(path, config.to_dict())
    return f"{Path(__file__)}:{path}"


def get_config(path: str) -> ConfigDict:
    """The config that `save_config` kept in the file `path`."""
    return ConfigDict(json.loads(Path(path).read_text(encoding="utf-8")))
