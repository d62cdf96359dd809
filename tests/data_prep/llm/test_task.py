"""Tasks for a language model: their keys, and what is sent to workers."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.documents.prompt import DocumentPrompt, Level
from data_prep.documents.written import DocumentTask
from data_prep.llm.base import Answer
from data_prep.queries.prompt import Prompt
from data_prep.queries.query import Query
from data_prep.queries.written import QueryTask


def query_task():
    prompt = Prompt("title", 1, "en", 0, "A title for:\n{passage}")
    texts = ["Wings lift.", "Drag slows."]
    roles = SimpleNamespace(gets_queries=np.ones(2, bool))
    passage_set = [SimpleNamespace(doc_id=f"d{i}") for i in range(2)]
    passages = SimpleNamespace(texts=texts, roles=roles)
    return QueryTask({"title": prompt}, 3, "the model", passages, passage_set, [0, 1])


def document_task():
    drawn = (("a sentence",), ("plain",), ("easy",))
    levels = (Level(1, "relevant", "answers"), Level(0, "irrelevant", "does not"))
    prompt = DocumentPrompt(1, "en", 0, "{query}\n{levels}", "{level} {name}", *drawn, levels)
    queries = [Query(f"q{i}", "human", f"which wing {i}", -1, "", {}, "d0") for i in range(2)]
    return DocumentTask(prompt, 3, "the model", queries)


@pytest.mark.parametrize(
    ("make", "group", "key", "name"),
    [
        (query_task, "title", "bc1b50b51c7c4436", "d1 title"),
        (document_task, "documents", "eee3826aa57cd314", "q1"),
    ],
)
def test_keys_stay_what_they_are_and_workers_get_little(make, group, key, name):
    """Answers are kept under these keys, so a change asks for everything anew."""
    task = make()
    assert list(task.groups) == [group]
    assert task.total == len(task.groups[group]) == 2
    assert task.key(group, 1, 2) == key
    payload = {**task.payload(group, [1], 2), "group": group, "asked": [key]}
    sent = pickle.loads(pickle.dumps(task))
    assert not set(vars(sent)) & {"queries", "passages", "passage_set", "rows"}
    assert sent.requests(payload) == task.requests(payload)
    made = sent.made(payload, [Answer("", "", "too long")])
    assert made == task.made(payload, [Answer("", "", "too long")])
    assert made.rejects == [{"id": name, "reason": "too long"}]
