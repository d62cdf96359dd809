"""Rows, tables and medians of benchmarks."""

import io
import json
import platform

import pytest

from tests.benchmarks.table import (
    Case,
    machine_description,
    median_interleaved,
    print_table,
    timed,
    write_json,
)


def test_a_ratio_over_one_means_better():
    assert Case("step", "a", ours=2.0, reference=6.0, unit="s").ratio == 3
    assert Case("step", "a", 6.0, 2.0, "texts/s", higher_is_better=True).ratio == 3


def test_rows_are_written_with_their_extra_keys(tmp_path):
    row = Case("step", "Q=256", 1.0, 2.0, "s", extra={"sampled": True}).row()
    write_json(tmp_path / "x.json", [row])
    assert json.loads((tmp_path / "x.json").read_text()) == [
        {
            "benchmark": "step",
            "case": "Q=256",
            "ours": 1.0,
            "reference": 2.0,
            "ratio": 2.0,
            "unit": "s",
            "sampled": True,
        }
    ]


def test_a_table_is_aligned():
    file = io.StringIO()
    rows = [
        Case("step", "Q=256", 1.0, 2.5, "s").row(),
        Case("padding", "Q=4096, nfcorpus", 123456.0, 1234567.0, "tokens").row(),
    ]
    print_table(rows, file)
    assert file.getvalue().splitlines() == [
        "benchmark  case                 ours  reference  ratio  unit",
        "step       Q=256                   1        2.5    2.5  s",
        "padding    Q=4096, nfcorpus  123,456  1,234,567     10  tokens",
    ]


def test_functions_run_in_turn():
    calls = []

    def measure(name, values):
        numbers = iter(values)

        def run():
            calls.append(name)
            return next(numbers)

        return run

    functions = {"a": measure("a", [3.0, 1.0, 2.0]), "b": measure("b", [5.0, 5.0, 8.0])}
    found = median_interleaved(functions, 3, between=lambda: calls.append("-"))
    assert "".join(calls) == "a-b-a-b-a-b"
    assert found["a"].median == 2.0
    assert found["a"].values == (3.0, 1.0, 2.0)
    assert found["b"].median == 5.0


def test_timed_returns_seconds():
    assert 0 <= timed(lambda: None)() < 60


def test_the_description_does_not_name_the_machine():
    description = machine_description()
    assert {"cpu", "cores", "platform", "date", "numpy"} <= set(description)
    if len(platform.node()) > 2:
        assert platform.node() not in json.dumps(description)
    with pytest.raises(KeyError):
        description["host"]
