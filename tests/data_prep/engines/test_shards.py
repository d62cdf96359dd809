"""Tests of data_prep/engines/shards.py and of the local engine."""

import threading

import pytest

from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Made, Shard, ShardFolder, check_rejects, json_lines, shard_key
from ldx.common.errors import UserError

ENGINE = LocalEngine()


class Doubling:
    """Writes twice what it gets; counts."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, payload):
        self.seen.append(payload["text"])
        rejects = [{"id": payload["text"], "reason": "odd"}] if payload["text"] == "odd" else []
        return Made(2 * payload["text"].encode(), rejects)


def shards_of(texts, setting="a"):
    return [
        Shard(f"part-{i}", shard_key(setting, text), 1, lambda text=text: {"text": text})
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def folder(tmp_path):
    return ShardFolder(tmp_path / "stage", ".txt")


@pytest.fixture
def make(folder):
    def call(shards, num_workers=1):
        seen = []
        options = {"num_workers": num_workers, "description": "doubling", "unit": "texts"}
        paths = folder.make(lambda: Doubling(seen), shards, ENGINE, **options)
        assert [p.read_bytes() for p in paths] == [2 * s.payload()["text"].encode() for s in shards]
        return seen

    return call


@pytest.mark.parametrize("num_workers", [1, 3])
def test_finished_shards_are_never_made_again(make, num_workers):
    texts = [f"text {i}" for i in range(20)]
    assert sorted(make(shards_of(texts[:7]), num_workers)) == sorted(texts[:7])
    assert sorted(make(shards_of(texts), num_workers)) == sorted(texts[7:])
    assert make(shards_of(texts), num_workers) == []


def test_what_changes_is_made_and_the_old_stays_until_it_is_removed(make, folder):
    make(shards_of(["a", "b"]))
    assert make(shards_of(["a", "c"])) == ["c"]
    assert make(shards_of(["a", "b"])) == []  # still there
    assert folder.remove_stale(shards_of(["a", "c"])) == 1
    assert make(shards_of(["a", "b"])) == ["b"]
    assert make(shards_of(["a", "b"], "another setting")) == ["a", "b"]


def test_a_damaged_shard_is_made_again(make, folder):
    shards = shards_of(["a", "b"])
    make(shards)
    folder.find(shards)["part-0"].write_bytes(b"?")
    assert make(shards) == ["a"]


def test_payloads_are_made_when_their_turn_comes():
    made = []

    def payload(i):
        made.append(i)
        return {"text": str(i)}

    shards = [Shard(str(i), "k", 1, lambda i=i: payload(i)) for i in range(100)]
    for num_workers in (1, 4):
        made.clear()
        run = ENGINE.run(lambda: Doubling([]), shards, num_workers=num_workers)
        next(run)
        assert len(made) <= 1 + 2 * num_workers
        run.close()


def test_workers_work_at_once():
    barrier = threading.Barrier(3, timeout=30)

    def worker(payload):
        barrier.wait()  # passes only if three are here
        return Made(b"")

    shards = [Shard(str(i), "k", 1, dict) for i in range(6)]
    done = list(ENGINE.run(lambda: worker, shards, num_workers=3))
    assert {shard.name for shard, _ in done} == {str(i) for i in range(6)}


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_workers_error_reaches_the_user_and_what_is_done_stays(folder, num_workers):
    def worker(payload):
        if payload["text"] == "bad":
            raise UserError("no such model")
        return Made(b"x")

    shards = shards_of(["good", "bad", "late"])
    with pytest.raises(UserError, match="no such model"):
        folder.make(
            lambda: worker, shards, ENGINE, num_workers=num_workers, description="", unit=""
        )
    assert "part-0" in folder.find(shards)
    assert "part-1" not in folder.find(shards)


def test_rejects_are_kept_beside_their_shard_and_limited(make, folder):
    shards = shards_of(["even", "odd"])
    make(shards)
    rejects = folder.rejects(shards)
    assert list(rejects.values()) == [[{"id": "odd", "reason": "odd"}]]
    check_rejects("stage", rejects, 2, 0.5, advice="")
    with pytest.raises(UserError, match=r"1 of 2 records were set aside: odd \(1\)\n  odd: odd\n"):
        check_rejects("stage", rejects, 2, 0.4, advice="")


def test_a_shard_of_which_nothing_could_be_done_is_not_written(folder):
    def worker(payload):
        rejects = [{"id": str(i), "reason": "no CUDA device"} for i in range(9)]
        return Made(b"", rejects, num_records=9)

    shards = shards_of(["a"])
    with pytest.raises(UserError, match="all of its 9 records failed, the first with: no CUDA"):
        folder.make(lambda: worker, shards, ENGINE, description="", unit="")
    assert folder.find(shards) == {}


def test_json_lines_are_utf8():
    assert json_lines([{"a": "é"}, {"b": 1}]) == '{"a": "é"}\n{"b": 1}\n'.encode()
