"""The encoding benchmark compares equal results, and with the reference's best batch size."""

import json

import numpy as np
import pytest

from ldx.eval.beir import Corpus, write_dataset
from tests.benchmarks import encode
from tests.toy import make_texts


def unit_vectors(seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_different_embeddings_are_not_compared():
    vectors = unit_vectors(0)
    encode.check_equal(vectors, vectors + 5e-5, "float32")
    encode.check_equal(vectors, vectors + 1e-3, "bfloat16")
    with pytest.raises(AssertionError):
        encode.check_equal(vectors, vectors + 1e-3, "float32")
    with pytest.raises(AssertionError):
        encode.check_equal(vectors, unit_vectors(1), "bfloat16")


def test_the_fastest_batch_size_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setitem(encode.CLOCKS, "wall", lambda: now[0])

    def takes(seconds: float):
        def run(texts: list[str]) -> np.ndarray:
            now[0] += seconds
            return unit_vectors(0)

        return run

    references = {8: takes(4.0), 32: takes(2.0), 128: takes(8.0)}
    case = encode.compare("toy", ["text"] * 8, takes(1.0), references, "float32", "wall")
    assert (case.ours, case.reference, case.ratio) == (8, 4, 2)
    assert case.extra["reference_batch_size"] == 32


@pytest.mark.slow  # the whole benchmark; what it computes is tested besides
def test_the_command(minilm, tmp_path, monkeypatch, capsys):
    texts = make_texts(np.random.default_rng(0), 20, 12)
    corpus = Corpus([str(i) for i in range(20)], [""] * 20, texts)
    write_dataset(tmp_path / "toy", corpus, {"q": "air"}, {"test": {"q": {"1": 1}}})
    monkeypatch.setenv("LDX_DATA_DIR", str(tmp_path))
    path = tmp_path / "rows.json"
    encode.main([f"--json={path}", "--num-texts=6", "--max-length=16", "--collections", "toy"])
    (row,) = json.loads(path.read_text())
    assert row["case"] == "toy, 6 texts, 16 tokens, float32"
    assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
    assert row["case"] in capsys.readouterr().out
