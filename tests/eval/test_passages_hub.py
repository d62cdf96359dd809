"""Tests of corpora on the hub, with a stub of the library `datasets`: no network is needed."""

import sys
import types
from pathlib import Path

import pytest

from ldx.records.schema import Passage
from tests.eval.corpora import PASSAGES, RECORDS, json_lines, message, read


class StubOfDatasets(types.ModuleType):
    """What of `datasets` is used, over rows that are given."""

    def __init__(self, rows: list[dict], configs: dict[str, list[str]]):
        super().__init__("datasets")
        self.rows, self.configs = rows, configs
        self.calls: list[tuple] = []

    def get_dataset_config_names(self, path: str, *, revision: str) -> list[str]:
        self.calls.append((path, revision))
        return list(self.configs)

    def get_dataset_split_names(self, path: str, config_name: str, *, revision: str) -> list[str]:
        self.calls.append((path, config_name, revision))
        return self.configs[config_name]

    def load_dataset(
        self, path: str, name: str, *, split: str, revision: str, streaming: bool
    ) -> list[dict]:
        assert streaming
        self.calls.append((path, name, split, revision))
        return self.rows


BEIR_CONFIGS = {"corpus": ["corpus"], "queries": ["queries"]}


def use_stub(monkeypatch: pytest.MonkeyPatch, rows: list, configs: dict) -> StubOfDatasets:
    stub = StubOfDatasets(rows, configs)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    return stub


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = use_stub(monkeypatch, [*RECORDS, {"_id": "x", "text": "\ud800"}], BEIR_CONFIGS)
    where, passages, rejected = read("BeIR/fiqa@1234abcd")
    assert passages == PASSAGES
    assert where[0] == "BeIR/fiqa@1234abcd:row 1"
    assert stub.calls[-1] == ("BeIR/fiqa", "corpus", "corpus", "1234abcd")
    assert "surrogate" in rejected.rows[0][1]
    rejected.rows[0][2].encode()
    read("BeIR/fiqa")
    assert stub.calls[-1] == ("BeIR/fiqa", "corpus", "corpus", "main")


def test_a_dataset_with_one_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": 1, "contents": "a wing"}]
    stub = use_stub(monkeypatch, rows, {"default": ["train"]})
    assert read("org/docs@v1")[1] == [Passage("1", "", "a wing")]
    assert stub.calls[-1] == ("org/docs", "default", "train", "v1")
    use_stub(monkeypatch, rows, {"a": ["train"], "b": ["train"]})
    assert "has no config `corpus` but a, b" in message("org/docs@v1")
    use_stub(monkeypatch, rows, {"a": ["train", "test"]})
    assert "has no split `corpus` but train, test" in message("org/docs@v1")
    use_stub(monkeypatch, [{"number": 1, "text": "x"}], BEIR_CONFIGS)
    assert "its columns are: number, text" in message("org/docs@v1")


def test_without_datasets_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = message("BeIR/fiqa@1")
    assert "no such file or folder" in text
    assert "pip install datasets" in text
    stub = use_stub(monkeypatch, RECORDS, BEIR_CONFIGS)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'BeIR/fiqa' on the Hub\nlong story")

    monkeypatch.setattr(stub, "load_dataset", fail)
    text = message("BeIR/fiqa@1")
    assert "ConnectionError: Couldn't reach 'BeIR/fiqa' on the Hub)" in text
    assert "copy the corpus here" in text


def test_a_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "BeIR" / "fiqa"
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(json_lines(RECORDS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert read("BeIR/fiqa")[1] == PASSAGES
