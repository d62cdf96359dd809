"""Training queries: chosen, cut out, written, and those of people."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from data_prep.corpora.leaks import TestQueries
from data_prep.corpora.passages import load_passages
from data_prep.engines.local import LocalEngine
from data_prep.generate_queries import choose
from data_prep.llm import asking
from data_prep.llm.base import Answer
from data_prep.pipeline.settings import query_origins
from data_prep.pipeline.workspace import open_workspace
from data_prep.queries.extractive import extractive_queries
from data_prep.queries.human import human_queries
from data_prep.queries.query import (
    Query,
    cut_into_shards,
    read_prepared_queries,
    write_prepared_queries,
)
from data_prep.queries.written import llm_queries
from ldx.common.errors import UserError
from tests.data_prep.toy import make_collection, make_config, reopened, run_stages


def query(text, query_type="sentence", query_id="q", row=0):
    excerpt = text if query_type == "sentence" else ""
    return Query(query_id, query_type, text, row, excerpt, {}, f"d{row}")


def test_choose_drops_and_counts():
    chosen = choose(
        [
            query("solve a linear system"),
            query("Solve a  linear system.", "title"),
            query("solve a linear SYSTEM", "title", row=4),
            query(""),
            query("sorting"),
            query("please Compute the matrix  exponential now"),
            query("linear algebra of things"),
        ],
        TestQueries(["Compute the matrix exponential.", "linear algebra"]),
    )
    assert [q.text for q in chosen.queries] == ["solve a linear system", "linear algebra of things"]
    assert [q.never_negative for q in chosen.queries] == [[4], []]
    assert chosen.dropped == {
        "equal to another of its passage": 1,
        "equal to one of another passage": 1,
        "nothing to extract": 1,
        "too short": 1,
        "holds a test query": 1,
    }


def test_human_queries_may_be_short_but_never_test_queries():
    chosen = choose([query("deafness", "human"), query("acne", "human")], TestQueries(["Acne"]))
    assert [q.text for q in chosen.queries] == ["deafness"]


@pytest.fixture(scope="module")
def workspace(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    config = make_config(make_collection(folder / "toy"), tiny_bert)
    config.prep.shard_size = 7
    run_stages(config, folder / "work", ["corpus"])
    return open_workspace(config, folder / "work")


def test_human_queries_keep_their_grades(workspace):
    roles = load_passages(workspace).roles
    held_out, duplicate, container = np.zeros(60, bool), np.zeros(60, bool), np.full(60, -1)
    held_out[[1, 2, 4]] = True
    duplicate[7], container[7] = True, 9
    roles = replace(roles, held_out=held_out, duplicate=duplicate, container=container)
    collected = human_queries(workspace, roles, "train", "human")
    found = {q.query_id: q for q in collected.queries}
    # q1 wants d1 and d2, q3 d3 and d4, q5 d5 and d6
    assert "q1" not in found
    assert collected.dropped == {"human: no relevant passage": 1}
    assert found["q3"].relevant == {3: 1}
    assert found["q5"].relevant == {5: 1, 6: 1}
    assert found["q7"].relevant == {9: 1, 8: 1}  # 9 holds 7
    assert (found["q5"].row, found["q5"].group, found["q5"].needed_rows) == (-1, "d5", [5, 6])


def test_extractive_queries_depend_on_no_order(workspace):
    passages, engine = load_passages(workspace), LocalEngine()
    rows = np.arange(20)
    forward = {q.query_id: q for q in extractive_queries(workspace, passages, rows, engine)}
    backward = {q.query_id: q for q in extractive_queries(workspace, passages, rows[::-1], engine)}
    assert forward == backward
    assert len(forward) == 60
    assert forward["d3:title"].group == "d3"


class FakeLlm:
    """Answers badly at first, for good for one passage, and counts what it is asked."""

    asked: ClassVar[Counter[tuple[str, int]]] = Counter()
    num_made: ClassVar[int] = 0

    def __init__(self):
        FakeLlm.num_made += 1

    def generate(self, requests):
        answers = []
        for request in requests:
            text = request.messages[-1]["content"]
            passage = next(f"number{i} " for i in range(60) if f"number{i} " in text)
            self.asked[passage, request.seed] += 1
            times = sum(count for (name, _), count in self.asked.items() if name == passage)
            if passage == "number5 ":
                answers.append(Answer("", "", "the prompt is too long"))
            elif passage == "number7 " or (passage == "number8 " and times == 1):
                answers.append(Answer("I cannot write that.", "stop"))
            else:
                answers.append(Answer(f'Query: "how to use {passage.strip()} well"', "stop"))
        return answers

    def close(self):
        """Nothing to give back."""


@pytest.fixture
def fake_llm(workspace, monkeypatch):
    monkeypatch.setattr(asking, "make_llm", lambda config: FakeLlm())
    monkeypatch.setattr(FakeLlm, "num_made", 0)
    FakeLlm.asked.clear()
    config = workspace.config.copy_and_resolve_references()
    config.prep.query_types = ("web_search_few_shot",)
    config.prep.max_rejects = 0.1
    config.prep.llm.backend = "openai"
    return open_workspace(config, workspace.workdir)


def test_bad_answers_are_asked_again_and_good_ones_never(fake_llm):
    passages = load_passages(fake_llm)
    rows = np.arange(20)
    collected = llm_queries(fake_llm, passages, rows, LocalEngine())
    found = collected.queries
    name = "web_search_few_shot"
    assert {q.row for q in found} == set(range(20)) - {5, 7}
    assert {q.text for q in found if q.row == 8} == {"how to use number8 well"}
    assert collected.dropped == {
        f"{name}: refused": 4,
        f"{name}: request failed": 1,  # it would fail again
        f"{name}: no good answer in 3 attempts": 1,
    }
    asked = Counter(passage for passage, _ in FakeLlm.asked)
    assert asked.pop("number7 ") == 3  # three seeds
    assert asked.pop("number8 ") == 2
    assert set(asked.values()) == {1}
    assert FakeLlm.num_made == 1  # for all shards and attempts
    before = FakeLlm.asked.copy()
    assert llm_queries(fake_llm, passages, rows, LocalEngine()) == collected
    assert FakeLlm.asked == before


def test_too_many_failures_end_the_job(fake_llm):
    fake_llm.config.prep.max_rejects = 0.01
    strict = reopened(fake_llm)
    with pytest.raises(
        UserError, match=r"1 of 57 records .*the prompt is too long \(1\)\n(.*\n)*.*ask"
    ):
        llm_queries(strict, load_passages(strict), np.arange(20), LocalEngine())


def test_equal_human_queries_are_merged():
    def human(query_id, relevant):
        return Query(query_id, "human", "Deafness", -1, "", relevant, "d1")

    made = Query("m", "title", "deafness?", 8, "", {}, "d8")
    queries = [human("a", {1: 1, 2: 1}), human("b", {2: 2, 3: 1}), made]
    (kept,) = choose(queries, TestQueries([])).queries
    assert kept.relevant == {1: 1, 2: 2, 3: 1}
    assert kept.never_negative == [8]


def test_answers_serve_again_whatever_else_has_changed(fake_llm):
    """Another seed asks anew; other shards, other passages and other numbers of them do not."""
    passages, engine = load_passages(fake_llm), LocalEngine()
    llm_queries(fake_llm, passages, np.arange(10, 20), engine)
    before = FakeLlm.asked.copy()
    fake_llm.config.prep.shard_size = 3
    llm_queries(reopened(fake_llm), passages, np.arange(10, 24)[::-1], engine)
    new = FakeLlm.asked - before
    assert {passage for passage, _ in new} == {f"number{i} " for i in range(20, 24)}


def test_an_unknown_type_is_named(workspace):
    config = workspace.config.copy_and_resolve_references()
    config.prep.query_types = ("poem",)
    other = open_workspace(config, workspace.workdir)
    with pytest.raises(UserError, match=r"poem.*types are sentence"):
        list(extractive_queries(other, load_passages(other), np.arange(2), LocalEngine()))


@pytest.mark.parametrize("queries", ["", "llm+", "people", "extractive+llm"])
def test_bad_sources_of_queries(queries):
    with pytest.raises(UserError, match=r"config\.prep\.queries"):
        query_origins(queries)


def test_queries_are_cut_into_shards_of_one_type(tmp_path):
    some = [query("text", "title", f"t{i}") for i in range(5)]
    some += [query("text", "human", f"h{i}") for i in range(2)]
    write_prepared_queries(tmp_path / "q.jsonl", some)
    shards = cut_into_shards(read_prepared_queries(tmp_path / "q.jsonl"), 2)
    assert [shard.name for shard in shards] == [
        "title-00000",
        "title-00001",
        "title-00002",
        "human-00000",
    ]
    assert [list(shard.numbers) for shard in shards] == [[0, 1], [2, 3], [4], [5, 6]]
    assert [q for shard in shards for q in shard.queries] == some
