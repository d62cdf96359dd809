"""Where a run's numbers go: metrics.jsonl, TensorBoard and, on request, Weights & Biases.

metrics.jsonl holds only what the run's inputs determine (losses, not times), so a run that was
killed and went on writes the same bytes as one that was never killed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ldx.common.errors import UserError
from ldx.common.files import atomic_write

METRICS_NAME = "metrics.jsonl"


class MetricsWriter:
    """A writer of the numbers of a run.

    Args:
      workdir: the run's folder.
      num_bytes: how much of metrics.jsonl counts; what a killed run wrote after it is cut off.
      step: the step that the run goes on from.
      tensorboard: whether to write event files to WORKDIR/tensorboard.
      wandb_project: the Weights & Biases project, or "" for none.
      config: the config that Weights & Biases shows beside the run.
      silent: whether to write nothing, as all processes but the first do.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        num_bytes: int = 0,
        step: int = 0,
        tensorboard: bool = True,
        wandb_project: str = "",
        config: Mapping[str, Any] | None = None,
        silent: bool = False,
    ):
        self._file: IO[bytes] | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None
        if silent:
            return
        self._wandb = _start_wandb(wandb_project, workdir, config) if wandb_project else None
        path = workdir / METRICS_NAME
        size = path.stat().st_size if path.exists() else 0
        if size < num_bytes:
            raise UserError(
                f"{path} has {size} bytes, but the run wrote {num_bytes} up to its checkpoint; "
                "restore the file, or give a new --workdir"
            )
        self._file = open(path, "ab")  # noqa: SIM115 (closed in close)
        self._file.truncate(num_bytes)
        self._file.seek(num_bytes)
        if tensorboard:
            from tensorboardX import SummaryWriter

            purge_step = step + 1 if step else None
            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge_step)

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Write values that the inputs determine, such as losses or the name of a source."""
        if self._file is not None:
            line = json.dumps({"step": step, **values})
            self._file.write(line.encode() + b"\n")
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self.write_extra(step, numbers)

    def write_extra(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers that do not go to metrics.jsonl, such as times."""
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name.replace("@", "_at_"), value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def flush(self) -> int:
        """Sync metrics.jsonl to the disk and return its length in bytes."""
        if self._file is None:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close all files."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(project: str, workdir: Path, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"config.logging.wandb_project={project!r} needs wandb: pip install '.[wandb]'"
        ) from None
    # A run of ldx is one run of Weights & Biases, however often it goes on.
    id_path = workdir / "wandb_id"
    if not id_path.exists():
        with atomic_write(id_path) as file:
            file.write(wandb.util.generate_id())
    identity = {"id": id_path.read_text(), "resume": "allow"}
    return wandb.init(project=project, dir=str(workdir), config=dict(config or {}), **identity)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    text = (workdir / METRICS_NAME).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
