"""What a finished run came to, for Python users: read from the files of its workdir."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldx.common.errors import UserError
from ldx.common.files import read_json
from ldx.eval.report import Facts, read_results
from ldx.report.common import PAGE_NAME, REPORT_FOLDER
from ldx.report.final import REPORT_NAME
from ldx.training.checkpoint import read_progress
from ldx.training.settings import CONFIG_NAME
from ldx.training.verdict import Verdict, judge


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to; `ldx.train` returns it, and RunResult(workdir) reads it again.

    Attributes:
      workdir: the run's folder.
    """

    workdir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "workdir", Path(self.workdir))

    @functools.cached_property
    def verdict(self) -> Verdict:
        """Whether training helped, by dev queries.

        Raises:
          UserError: the folder has no evaluated run.
        """
        progress = read_progress(self.workdir)
        if progress is None:
            raise UserError(f"{self.workdir}: no run of ldx.train was evaluated here")
        train = read_json(self.workdir / CONFIG_NAME)["train"]
        return judge(self.workdir, progress, train["select_by"])

    @functools.cached_property
    def results(self) -> Mapping[str, Facts]:
        """The metrics of results.json by system; empty where nobody judged.

        Systems are "base", "trained" and the baselines, such as "bm25" and "teacher".
        """
        return read_results(self.workdir)

    @functools.cached_property
    def text(self) -> str:
        """The report as the command prints it.

        Raises:
          UserError: it is not made yet; of several processes the first makes it.
        """
        if not self.report.is_file():
            raise UserError(f"{self.report}: no such file; the run has not ended")
        return self.report.read_text(encoding="utf-8")

    @property
    def report(self) -> Path:
        """The file of the report's text."""
        return self.workdir / REPORT_NAME

    @property
    def page(self) -> Path:
        """The page with plots and tables; open it in a browser."""
        return self.workdir / REPORT_FOLDER / PAGE_NAME

    def __str__(self) -> str:
        """The report's text."""
        return self.text
