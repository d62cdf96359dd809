"""Paths of folders that users name."""

import pytest

from ldx.common.errors import UserError
from ldx.common.files import folder_path


@pytest.mark.parametrize(
    "address", ["gs://bucket/run", "s3://bucket", "hdfs://host:8020/run", "file:///tmp/run"]
)
def test_an_address_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"an address; wanted a folder"):
        folder_path("--workdir", address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a:b", "run:1/x", "C:", "2026-11-29T12:00"])
def test_a_colon_is_a_letter_like_others(name, tmp_path):
    assert folder_path("--workdir", tmp_path / name) == tmp_path / name
