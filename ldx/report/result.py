"""The result of a finished run, for Python users; the files of its workdir hold the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldx.eval.report import Facts, read_results
from ldx.report.common import PAGE_NAME, REPORT_FOLDER
from ldx.report.final import REPORT_NAME
from ldx.training.verdict import Verdict


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run.

    Attributes:
      workdir: the run's folder.
      verdict: whether training helped, by dev queries.
      results: metrics on human judgments by system ("base", "trained", and baselines), as
        results.json holds them; empty where nobody judged.
      text: the report as the command prints it.
    """

    workdir: Path
    verdict: Verdict
    results: Mapping[str, Facts]
    text: str

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


def read_result(workdir: Path, verdict: Verdict) -> RunResult:
    """The result of a run whose report is made."""
    text = (workdir / REPORT_NAME).read_text(encoding="utf-8")
    return RunResult(workdir, verdict, read_results(workdir), text)
