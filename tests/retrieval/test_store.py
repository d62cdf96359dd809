"""The embedding store: what is there is read, what is missing is embedded once, by anybody."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

import ldx.retrieval.store
import ldx.train
from ldx.models.student import Student, load_student
from ldx.parallel.mesh import make_mesh
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.store import EmbeddingStore, text_keys
from tests.conftest import TINY_WORDS
from tests.data_prep.toy import make_collection, make_config, run_stages

TEXTS = [f"{a} of {b}" for a in TINY_WORDS[:6] for b in TINY_WORDS[6:12]]


@pytest.fixture(scope="module")
def student(tiny_bert: Path) -> Student:
    return load_student(tiny_bert, passage_max_length=16, query_max_length=16)


class Counted(Encoder):
    """An encoder that counts the texts that the model embeds."""

    num_texts = 0

    def _compute(self, params, ids, *arguments):
        self.num_texts += len(ids)
        return super()._compute(params, ids, *arguments)


@pytest.fixture
def make_encoder(student: Student, tmp_path: Path):
    def make(store: EmbeddingStore | None = None, student: Student = student) -> Counted:
        # A store that is opened anew reads the files, as another process does.
        store = store or EmbeddingStore(tmp_path / "store")
        return Counted(student, mesh=make_mesh(1), microbatch_tokens=256, store=store)

    return make


def test_a_text_is_embedded_once(make_encoder, student):
    plain = Encoder(student, mesh=make_mesh(1), microbatch_tokens=256)
    expected = plain.encode(student.params, TEXTS, kind="passage")
    first, second = make_encoder(), make_encoder()
    embeddings = first.encode(student.params, [*TEXTS, *TEXTS[:5]], kind="passage")
    np.testing.assert_allclose(embeddings, np.concatenate([expected, expected[:5]]), atol=1e-6)
    assert first.num_texts == len(TEXTS)
    np.testing.assert_array_equal(second.encode(student.params, TEXTS, kind="passage"),
                                  embeddings[: len(TEXTS)])  # fmt: skip
    # A query without a prompt is the same text to the model.
    second.encode(student.params, [TEXTS[0], "a text that nobody asked for"], kind="query")
    assert second.num_texts == 1
    # The first one finds what the second one wrote since.
    first.encode(student.params, ["a text that nobody asked for"], kind="passage")
    assert first.num_texts == len(TEXTS)


def test_what_decides_an_embedding_is_in_the_key(make_encoder, student, tiny_bert):
    encoder = make_encoder()
    long = " ".join(TINY_WORDS)
    encoder.encode(student.params, [long, "wing"], kind="passage")
    for number, (other, params, text) in enumerate(
        [
            (student, jax.tree.map(lambda p: p + 1e-3, student.params), "wing"),
            (load_student(tiny_bert, pooling="cls"), student.params, "wing"),
            (load_student(tiny_bert, normalize=False), student.params, "wing"),
            (load_student(tiny_bert, dtype="bfloat16"), student.params, "wing"),
            (load_student(tiny_bert, passage_prompt="the "), student.params, "wing"),
            (load_student(tiny_bert, passage_max_length=12), student.params, long),
        ]
    ):
        another = make_encoder(student=other)
        another.encode(params, [text], kind="passage")
        assert another.num_texts == 1, number
    same = load_student(tiny_bert, passage_max_length=12, query_prompt="query: ")
    for text in ("wing", long + " of what the limit cuts off"):
        another = make_encoder(student=same)
        another.encode(student.params, [text], kind="passage")
        assert another.num_texts == 0, text


@pytest.mark.parametrize("damage", ["cut short", "without keys", "of another model", "killed"])
def test_what_is_damaged_is_embedded_again(make_encoder, student, tmp_path, damage):
    expected = make_encoder().encode(student.params, TEXTS, kind="passage")
    (folder,) = (tmp_path / "store").iterdir()
    for keys in folder.glob("*.keys.npy"):
        shard = keys.with_name(keys.name.replace(".keys", ""))
        if damage == "cut short":
            os.truncate(shard, shard.stat().st_size // 2)
        elif damage == "without keys":
            os.truncate(keys, 40)
        elif damage == "of another model":
            np.save(shard, np.zeros((len(TEXTS), 7), np.float32))
        else:
            keys.unlink()
    for num_texts in (len(TEXTS), 0):
        encoder = make_encoder()
        embeddings = encoder.encode(student.params, TEXTS, kind="passage")
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)
        assert encoder.num_texts == num_texts


def test_its_size_is_bounded(make_encoder, student, tmp_path):
    size = len(TEXTS) * (student.embedding_size * 4 + 16) + 1000  # with the headers of two files
    params = [jax.tree.map(lambda p, i=i: p + i * 1e-3, student.params) for i in range(3)]
    keys = [EmbeddingStore(tmp_path).key(student, each) for each in params]
    for each in (params[0], params[1], params[0]):  # the second was not used for longest
        make_encoder().encode(each, TEXTS, kind="passage")
        time.sleep(0.02)
    bounded = EmbeddingStore(tmp_path / "store", int(2.5 * size))
    make_encoder(bounded).encode(params[2], TEXTS, kind="passage")
    assert {path.name for path in (tmp_path / "store").iterdir()} == {keys[0], keys[2]}


def test_without_room_or_rights_it_goes_on(make_encoder, student, tmp_path, caplog, monkeypatch):
    make_encoder().encode(student.params, TEXTS[:9], kind="passage")

    def check(store: EmbeddingStore, reason: str) -> None:
        caplog.clear()
        encoder = make_encoder(store)
        for _ in range(2):
            encoder.encode(student.params, TEXTS, kind="passage")
        assert encoder.num_texts == 2 * (len(TEXTS) - 9)  # what is there is read all the same
        assert [reason in message for message in caplog.messages] == [True]  # said once
        assert len(list((tmp_path / "store").iterdir())) == 1

    check(EmbeddingStore(tmp_path / "store", max_bytes=2000), "no room")

    def refuse(path, mode):
        raise PermissionError(f"{path} may not be written")

    monkeypatch.setattr(ldx.retrieval.store, "atomic_write", refuse)
    check(EmbeddingStore(tmp_path / "store"), "may not be written")


def test_what_is_dropped_is_gone(make_encoder, student, tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    make_encoder(store).encode(student.params, TEXTS, kind="passage")
    store.drop(store.key(student, student.params))
    assert not list((tmp_path / "store").iterdir())
    encoder = make_encoder(store)
    encoder.encode(student.params, TEXTS, kind="passage")
    assert encoder.num_texts == len(TEXTS)


WRITER = """
import sys
import numpy as np
from ldx.retrieval.store import EmbeddingStore, ModelEmbeddings
rng, store = np.random.default_rng(int(sys.argv[2])), EmbeddingStore(sys.argv[1], 8_000)
for turn in range(150):
    folder = store.folder / f"model{rng.integers(4)}"
    keys = np.repeat(rng.integers(0, 40, size=20, dtype=np.uint64), 2).reshape(-1, 2)
    model = ModelEmbeddings(store, folder, 8)
    is_there, embeddings = model.read(keys)
    np.testing.assert_array_equal(embeddings, np.repeat(keys[is_there, :1], 8, axis=1))
    missing = np.unique(keys[~is_there], axis=0)
    if len(missing):
        model.write(missing, np.repeat(missing[:, :1], 8, axis=1).astype(np.float32))
"""


def test_processes_write_and_drop_at_the_same_time(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    writers = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE) for seed in (0, 1)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    assert sum(p.stat().st_size for p in (tmp_path / "store").rglob("*") if p.is_file()) < 16_000


def test_keys_are_of_the_content():
    ids = [np.array(x) for x in ([1, 2], [1, 2], [2, 1], [1], [])]
    keys = text_keys([x.astype(np.uint16) for x in ids])
    np.testing.assert_array_equal(keys, text_keys([x.astype(np.int64) for x in ids]))
    assert len(np.unique(keys, axis=0)) == 4


def test_a_whole_run_embeds_every_text_once(tiny_bert, tmp_path, monkeypatch, caplog):
    """Preparation, training and the report, over the parameters before and after training."""
    embedded: Counter[tuple] = Counter()
    compute = Encoder._compute

    def noted(self, params, ids, *arguments):
        leaf = np.asarray(params["embeddings"]["word"]["embedding"]).tobytes()
        embedded.update((leaf, *key) for key in text_keys(ids).tolist())
        return compute(self, params, ids, *arguments)

    monkeypatch.setattr(Encoder, "_compute", noted)
    config = make_config(make_collection(tmp_path / "toy"), tiny_bert)
    config.data.batch_size = 8
    config.train.update(num_steps=2, eval_every=2, dev_pool=60, bucket_lengths=(64,))
    config.train.update(microbatch_tokens=192, stop_on=None)
    run_stages(config, tmp_path / "run")
    num_prepared = len(embedded)
    assert num_prepared > 60
    with caplog.at_level("INFO", logger="absl"):
        ldx.train.train(config, tmp_path / "run")
    assert set(embedded.values()) == {1}
    assert len({leaf for leaf, *_ in embedded}) == 2
    (summary,) = (x for x in caplog.messages if "texts were embedded" in x)
    num_embedded, num_kept, num_asked = (int(word) for word in summary.split() if word.isdigit())
    assert num_embedded > 0 < num_kept
    assert num_embedded + num_kept == num_asked
