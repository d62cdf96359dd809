"""The token store: right, built once whoever asks, and carried on after a kill."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tokenizers

from ldx.common.errors import UserError
from ldx.data import tokens
from ldx.data.tokens import TokenStore
from ldx.records.schema import Passage
from ldx.records.sets import PassageSet, PassageTexts, write_passages

TEXTS = ["the cat sat", "", "a banded matrix", "the the the", "zebra"]


class WordTokenizer:
    """A word-level model of the `tokenizers` library, which counts the texts it was given."""

    def __init__(self, vocab_size: int = 10, shift: int = 0):
        words = ["[UNK]", "the", "cat", "sat", "a", "banded", "matrix", "passage"]
        vocab = {word: number + shift for number, word in enumerate(words)}
        self._model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
        self._model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        self.vocab_size = vocab_size
        self.fingerprint = f"words-{vocab_size}-{shift}"
        self.num_encoded = 0

    def encode(self, texts):
        self.num_encoded += len(texts)
        encoded = self._model.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in encoded]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK_TEXTS", 2)


def open_or_build(folder, texts=TEXTS, tokenizer=None, key="k"):
    tokenizer = tokenizer or WordTokenizer()
    return TokenStore.open_or_build(folder, texts=texts, tokenizer=tokenizer, key=key)


def assert_right(store, texts=TEXTS, tokenizer=None):
    expected = (tokenizer or WordTokenizer()).encode(texts)
    assert len(store) == len(expected)
    for row, ids in enumerate(expected):
        np.testing.assert_array_equal(store[row], ids)
    assert store.lengths.dtype == np.int32
    np.testing.assert_array_equal(store.lengths, [len(ids) for ids in expected])


@pytest.mark.parametrize("num_texts", [0, 1, 2, 3, 4, 5])
def test_holds_the_ids_of_every_text(tmp_path, num_texts):
    store = open_or_build(tmp_path, TEXTS[:num_texts])
    assert_right(store, TEXTS[:num_texts])
    assert_right(pickle.loads(pickle.dumps(store)), TEXTS[:num_texts])
    with pytest.raises(IndexError):
        store[num_texts]


def test_second_opening_tokenises_nothing(tmp_path):
    open_or_build(tmp_path)
    tokenizer = WordTokenizer()
    assert_right(open_or_build(tmp_path, tokenizer=tokenizer))
    assert tokenizer.num_encoded == 0
    hidden = [f.name for f in tmp_path.iterdir() if f.name.startswith(".")]
    assert len(hidden) == 1
    assert hidden[0].endswith(".lock")


def test_another_key_tokenizer_or_number_of_texts_is_another_store(tmp_path):
    stores = [
        open_or_build(tmp_path),
        open_or_build(tmp_path, key="k2"),
        open_or_build(tmp_path, TEXTS[:3]),
        open_or_build(tmp_path, tokenizer=WordTokenizer(shift=1)),
    ]
    assert len({store.folder for store in stores}) == 4


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.int32)])
def test_ids_take_two_bytes_where_the_vocabulary_fits(tmp_path, vocab_size, dtype):
    tokenizer = WordTokenizer(vocab_size, shift=vocab_size - 8)
    store = open_or_build(tmp_path, tokenizer=tokenizer)
    assert store[0].dtype == dtype
    assert store[2].max() == vocab_size - 2
    assert_right(store, tokenizer=tokenizer)


def test_id_outside_the_vocabulary(tmp_path):
    with pytest.raises(AssertionError):
        open_or_build(tmp_path, tokenizer=WordTokenizer(vocab_size=4))


def test_texts_of_a_passage_set(tmp_path):
    passages = [Passage(str(n), "the cat", "a matrix" * (n % 2)) for n in range(7)]
    write_passages(tmp_path / "records", passages)
    texts = PassageTexts(PassageSet(tmp_path / "records"), prompt="passage ")
    store = open_or_build(tmp_path, texts)
    assert store[1].tolist() == [7, 1, 2, 4, 6]
    assert_right(store, ["passage " + f"{p.title} {p.text}" for p in passages])


def test_a_failed_build_goes_on_where_it_was(tmp_path):
    class Failing(WordTokenizer):
        def encode(self, texts):
            if self.num_encoded == 4:
                raise MemoryError
            return super().encode(texts)

    with pytest.raises(MemoryError):
        open_or_build(tmp_path, tokenizer=Failing())
    tokenizer = WordTokenizer()
    assert_right(open_or_build(tmp_path, tokenizer=tokenizer))
    assert tokenizer.num_encoded == 1


def test_a_damaged_chunk_is_made_again(tmp_path):
    store = open_or_build(tmp_path)
    work = tmp_path / f".{store.folder.name}.building"
    work.mkdir()
    (work / "chunk-000000000000.npz").write_bytes(b"PK half")
    (work / "chunk-000000000002.npz").write_bytes(b"")
    (store.folder / "meta.json").unlink()
    assert_right(open_or_build(tmp_path))


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["shorter", "empty", "missing", "strange"])
def test_a_damaged_store_is_built_again_with_a_warning(tmp_path, caplog, name, damage):
    path = open_or_build(tmp_path).folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"shorter": data[:-3], "empty": b"", "strange": b"[]"}[damage])
    with pytest.raises(UserError, match=str(path.parent)):
        TokenStore(path.parent)
    with caplog.at_level(logging.WARNING, "absl"):
        assert_right(open_or_build(tmp_path))
    assert "built again" in caplog.text
    assert [f.name for f in tmp_path.iterdir() if "building" in f.name] == []


BUILDER = textwrap.dedent(
    """
    import os, sys, time
    import numpy as np
    from absl import logging
    from ldx.data import tokens

    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    tokens.CHUNK_TEXTS = 10
    folder, pause = sys.argv[1], float(sys.argv[2])

    class Slow:
        fingerprint, vocab_size = "slow", 128

        def encode(self, texts):
            with open(folder + "/encoded", "a") as file:
                file.write(f"{os.getpid()} {texts[0]}\\n")
            time.sleep(pause)
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    texts = [str(number) for number in range(200)]
    print("ready", flush=True)
    store = tokens.TokenStore.open_or_build(folder, texts=texts, tokenizer=Slow(), key="k")
    assert [bytes(store[row].astype(np.uint8)).decode() for row in range(200)] == texts
    print("right", flush=True)
    """
)


def start(folder, pause: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def encoded_texts(folder) -> list[str]:
    path = folder / "encoded"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def test_racing_processes_build_once(tmp_path):
    processes = [start(tmp_path, 0.05) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in results] == ["right\n"] * 3, results
    assert encoded_texts(tmp_path) == [str(number) for number in range(0, 200, 10)]
    assert sum("another process tokenises" in err for _, err in results) >= 1


def test_killed_build_goes_on_where_it_was(tmp_path):
    first = start(tmp_path, 0.1)
    while len(encoded_texts(tmp_path)) < 4:
        assert first.poll() is None
        time.sleep(0.01)
    waiting = start(tmp_path, 0)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = waiting.communicate(timeout=60)
    assert out == "right\n", err
    encoded = encoded_texts(tmp_path)
    # Only the chunk that was under way when the kill came may be tokenised twice.
    assert sorted(set(encoded), key=int) == [str(number) for number in range(0, 200, 10)]
    assert len(encoded) <= 21
    assert not [f for f in tmp_path.iterdir() if "building" in f.name]


def test_with_the_tokenizer_of_a_model(tmp_path, minilm):
    from ldx.models.tokenizer import Tokenizer

    tokenizer = Tokenizer(minilm)
    texts = ["solve a banded linear system " * 200, "", "naïve 漢字 \N{PILE OF POO}"]
    store = open_or_build(tmp_path, texts, tokenizer)
    assert_right(store, texts, tokenizer)
    assert store[0].dtype == np.uint16
    assert store.lengths[0] > 512
