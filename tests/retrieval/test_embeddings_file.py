"""Embeddings in a file: those of the model, made once, and carried on after a kill."""

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ldx.common.errors import UserError
from ldx.models.student import Student, load_student
from ldx.parallel.mesh import make_mesh
from ldx.retrieval.embeddings_file import encode_to_file
from ldx.retrieval.encoder import Encoder
from tests.conftest import TINY_WORDS

BLOCK = 16


def make_texts(num_texts: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(TINY_WORDS, size=rng.integers(0, 40))) for _ in range(num_texts)]


TEXTS = make_texts(5 * BLOCK + 3)


class Corpus:
    """Texts that are read one by one; notes the numbers of those that were read."""

    def __init__(self, texts: list[str]):
        self._texts = texts
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: int) -> str:
        self.read.append(number)
        return self._texts[number]


@pytest.fixture(scope="module")
def student(tiny_bert: Path) -> Student:
    return load_student(tiny_bert)


@pytest.fixture(scope="module")
def encoder(student: Student) -> Encoder:
    encoder = Encoder(student, mesh=make_mesh(1), microbatch_tokens=256)
    encoder.block_texts = BLOCK
    return encoder


def encode(encoder: Encoder, path: Path, texts=TEXTS, key: str = "k", **options) -> np.ndarray:
    params = options.pop("params", encoder.student.params)
    options = {"kind": "passage"} | options
    return encode_to_file(encoder, params, texts, path, key=key, **options)


def stop_after(num_calls: int):
    """A check that fails when it is called for the last time."""
    calls = iter(range(num_calls))

    def check() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return check


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.mark.parametrize("kind", ["passage", "query"])
@pytest.mark.parametrize("num_texts", [1, BLOCK, len(TEXTS)])
def test_they_are_those_of_the_model(encoder, tiny_bert, tmp_path, kind, num_texts):
    import sentence_transformers

    texts = TEXTS[:num_texts]
    array = encode(encoder, tmp_path / "x.npy", texts, kind=kind)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(array, encoder.encode(encoder.student.params, texts, kind=kind))
    reference = sentence_transformers.SentenceTransformer(str(tiny_bert), device="cpu")
    np.testing.assert_allclose(array, reference.encode(texts), atol=1e-5)
    assert hidden(tmp_path) == [".x.npy.json", ".x.npy.lock"]


def test_float16_is_float32_rounded(encoder, tmp_path):
    half = encode(encoder, tmp_path / "half.npy", dtype="float16")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, encode(encoder, tmp_path / "x.npy").astype(np.float16))


def test_an_empty_corpus(encoder, tmp_path):
    assert encode(encoder, tmp_path / "x.npy", []).shape == (0, 32)
    assert encode(encoder, tmp_path / "x.npy", []).shape == (0, 32)
    assert encoder.encode(encoder.student.params, [], kind="query").shape == (0, 32)


def test_eight_devices_give_the_same(student, encoder, tmp_path):
    eight = Encoder(student, mesh=make_mesh(8), microbatch_tokens=1024)
    eight.block_texts = BLOCK
    one = encode(encoder, tmp_path / "one.npy")
    np.testing.assert_allclose(encode(eight, tmp_path / "eight.npy"), one, atol=1e-6)


def test_texts_are_read_once_and_not_long_before_their_turn(encoder, tmp_path):
    corpus = Corpus(TEXTS)
    blocks = encoder.encode_blocks(encoder.student.params, corpus, kind="passage")
    for number, (start, rows) in enumerate(blocks):
        assert start == number * BLOCK
        assert len(rows) == min(BLOCK, len(TEXTS) - start)
        assert len(corpus.read) <= (number + 2) * BLOCK
    assert corpus.read == list(range(len(TEXTS)))


def test_what_is_finished_is_not_made_again(encoder, tmp_path):
    first = encode(encoder, tmp_path / "x.npy")
    stat = (tmp_path / "x.npy").stat()
    corpus = Corpus(TEXTS)
    np.testing.assert_array_equal(encode(encoder, tmp_path / "x.npy", corpus), first)
    assert corpus.read == []
    assert (tmp_path / "x.npy").stat() == stat


def test_a_stopped_run_goes_on_after_its_last_block(encoder, tmp_path, caplog):
    path = tmp_path / "x.npy"
    num_stops = 0
    while True:
        done = json.loads((tmp_path / ".x.npy.json").read_text())["num_done"] if num_stops else 0
        corpus = Corpus(TEXTS)
        try:
            with caplog.at_level(logging.INFO, "absl"):
                encode(encoder, path, corpus, check=stop_after(5))
            break
        except KeyboardInterrupt:
            num_stops += 1
            assert corpus.read[0] == done
            assert not path.exists()
    assert num_stops >= 2
    assert f"x.npy: going on after {done} of 83 texts" in caplog.text
    np.testing.assert_array_equal(encode(encoder, path), encode(encoder, tmp_path / "y.npy"))
    assert path.read_bytes() == (tmp_path / "y.npy").read_bytes()


def others(student: Student) -> dict[str, dict]:
    """Changes after which embeddings are made anew."""
    params = {**student.params, "layers": dict(student.params["layers"])}
    norm = params["embeddings"]["norm"]
    params["embeddings"] = params["embeddings"] | {"norm": norm | {"bias": norm["bias"] + 1}}
    return {
        "key": {"key": "other"},
        "kind": {"kind": "query"},
        "dtype": {"dtype": "float16"},
        "texts": {"texts": TEXTS[:-1]},
        "params": {"params": params},
    }


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("change", ["key", "kind", "dtype", "texts", "params"])
def test_another_key_starts_anew(encoder, student, tmp_path, change, is_finished):
    path = tmp_path / "x.npy"
    if is_finished:
        encode(encoder, path)
    else:
        with pytest.raises(KeyboardInterrupt):
            encode(encoder, path, check=stop_after(9))
        assert json.loads((tmp_path / ".x.npy.json").read_text())["num_done"] >= BLOCK
    options = others(student)[change]
    corpus = Corpus(options.pop("texts", TEXTS))
    array = encode(encoder, path, corpus, **options)
    assert corpus.read == list(range(len(corpus)))
    np.testing.assert_array_equal(
        array, encode(encoder, tmp_path / "y.npy", list(corpus), **options)
    )


def test_other_prompts_and_lengths_start_anew(student, encoder, tmp_path):
    first = np.array(encode(encoder, tmp_path / "x.npy"))
    for options in ({"passage_prompt": "query "}, {"passage_max_length": 5}):
        config = dataclasses.replace(student.config, **options)
        other = Encoder(dataclasses.replace(student, config=config))
        corpus = Corpus(TEXTS)
        assert not np.array_equal(encode(other, tmp_path / "x.npy", corpus), first)
        assert len(corpus.read) == len(TEXTS)


@pytest.mark.parametrize("name", ["x.npy", ".x.npy.json"])
@pytest.mark.parametrize("damage", ["shorter", "empty", "missing", "strange"])
def test_damaged_files_are_made_again(encoder, tmp_path, name, damage, caplog):
    right = np.array(encode(encoder, tmp_path / "x.npy"))
    path = tmp_path / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"shorter": data[:-7], "empty": b"", "strange": b"[]"}[damage])
    with caplog.at_level(logging.WARNING, "absl"):
        np.testing.assert_array_equal(encode(encoder, tmp_path / "x.npy"), right)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), right)
    assert ("x.npy is missing or damaged and is made again" in caplog.text) == (name == "x.npy")


def test_a_part_that_lost_its_end_is_made_again(encoder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(encoder, tmp_path / "x.npy", check=stop_after(9))
    part = tmp_path / ".x.npy.part"
    part.write_bytes(part.read_bytes()[:200])
    right = encode(encoder, tmp_path / "y.npy")
    np.testing.assert_array_equal(encode(encoder, tmp_path / "x.npy"), right)


def test_a_disk_without_room_is_met_at_the_door(encoder, tmp_path, monkeypatch):
    needed = len(TEXTS) * 32 * 4 + 128
    free = needed - 1
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free))
    corpus = Corpus(TEXTS)
    with pytest.raises(UserError, match=r"x\.npy: 83 embeddings of 32 float32 numbers need"):
        encode(encoder, tmp_path / "x.npy", corpus)
    assert corpus.read == []
    assert hidden(tmp_path) == [".x.npy.lock"]
    free = needed
    with pytest.raises(KeyboardInterrupt):
        encode(encoder, tmp_path / "x.npy", check=stop_after(9))
    free = needed - 128 - BLOCK * 32 * 4  # a block is there already
    encode(encoder, tmp_path / "x.npy")


WORKER = textwrap.dedent(
    """
    import os, sys, time
    from absl import logging
    from ldx.retrieval.embeddings_file import encode_to_file
    from ldx.retrieval.encoder import Encoder
    from ldx.models.student import load_student

    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    folder, model, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])

    class Corpus:
        def __len__(self):
            return 400

        def __getitem__(self, number):
            if number % 10 == 0:
                with open(folder + "/read", "a") as file:
                    file.write(f"{os.getpid()} {number}\\n")
                time.sleep(pause)
            return ("solve a linear system " * (number * 7 % 20)).strip()

    student = load_student(model)
    encoder = Encoder(student, microbatch_tokens=512)
    encoder.block_texts = 10
    print("ready", flush=True)
    sys.stdin.readline()
    encode_to_file(
        encoder, student.params, Corpus(), folder + "/x.npy", kind="passage", key="k",
        description="passages",
    )
    print("done", flush=True)
    """
)


def start(
    folder: Path, model: Path, pause: float, num_processes: int = 1
) -> list[subprocess.Popen]:
    """Processes that begin to embed at the same moment, all of them ready."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(model), str(pause)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for _ in range(num_processes)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def texts_read(folder: Path, process: subprocess.Popen) -> list[int]:
    lines = [line.split() for line in (folder / "read").read_text().splitlines()]
    return [int(number) for pid, number in lines if int(pid) == process.pid]


def num_done(folder: Path) -> int:
    path = folder / ".x.npy.json"
    return json.loads(path.read_text())["num_done"] if path.exists() else 0


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tiny_bert, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    (process,) = start(whole, tiny_bert, 0)
    assert process.communicate(timeout=120)[0] == "done\n"
    rng = random.Random(time.time_ns())
    for _ in range(2):
        before = num_done(killed)
        (process,) = start(killed, tiny_bert, 0.05)
        while num_done(killed) == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert texts_read(killed, process)[0] == before
        assert before < num_done(killed) < 400
        assert not (killed / "x.npy").exists()
    before = num_done(killed)
    (process,) = start(killed, tiny_bert, 0)
    out, err = process.communicate(timeout=120)
    assert out == "done\n", err
    assert texts_read(killed, process) == list(range(before, 400, 10))
    assert (killed / "x.npy").read_bytes() == (whole / "x.npy").read_bytes()


def test_two_processes_embed_once(tiny_bert, tmp_path):
    processes = start(tmp_path, tiny_bert, 0.05, num_processes=2)
    results = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0, 0], (codes, results)
    assert [out for out, _ in results] == ["done\n"] * 2
    read = [texts_read(tmp_path, process) for process in processes]
    assert sorted(read) == [[], list(range(0, 400, 10))]
    assert sum("another process embeds the passages" in err for _, err in results) == 1
