"""One trained run for all tests of the report."""

from pathlib import Path

import pytest

from tests.report import hostile_run


@pytest.fixture(scope="session")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that trained on hostile texts and made its report; not to be changed."""
    return hostile_run.train(tmp_path_factory.mktemp("hostile"), tiny_bert)
