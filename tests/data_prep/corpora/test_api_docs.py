"""Tests of data_prep/corpora/api_docs.py."""

import hashlib
import sys
import types

import pytest

from configs import base
from data_prep import corpus
from data_prep.corpora import api_docs
from data_prep.corpora.passages import ROLES_NAME, Roles
from data_prep.pipeline.workspace import open_workspace
from ldx.common.errors import UserError

DOC = """Solve a banded linear system.

    The matrix is given in diagonal ordered form, upper diagonals first.

    Parameters
    ----------
    ab : array_like
        The banded matrix.
    .. versionadded:: 1.0
"""


def test_split_docstring_takes_the_first_paragraph():
    summary, body = api_docs.split_docstring(DOC)
    assert summary == "Solve a banded linear system."
    assert body == (
        "The matrix is given in diagonal ordered form, upper diagonals first.\n\n"
        "Parameters\nab : array_like\nThe banded matrix."
    )


def test_split_docstring_skips_signatures():
    text = "add(x1, x2, /, out=None,\n    where=True)\n\nAdd two\narguments.\n\nThe rest of it."
    assert api_docs.split_docstring(text) == ("Add two arguments.", "The rest of it.")


def test_a_signature_alone_stays():
    assert api_docs.split_docstring("f(x)")[0] == "f(x)"


@pytest.fixture
def package(monkeypatch):
    """A module named `fakepkg` whose functions have the docstrings of the test."""

    def make(**docs):
        module = types.ModuleType("fakepkg")
        for name, doc in docs.items():
            function = types.FunctionType((lambda: None).__code__, {}, name)
            function.__doc__, function.__module__ = doc, "fakepkg"
            setattr(module, name, function)
        monkeypatch.setitem(sys.modules, "fakepkg", module)
        monkeypatch.setattr(api_docs, "package_versions", lambda packages: {})
        return module

    return make


BODY = "This body is long enough to count as a passage, number {}, of the test package."


def test_collect_reports_what_it_drops(package):
    package(
        good="A good summary here.\n\n" + BODY.format(1),
        twin="Another good summary here.\n\n" + BODY.format(1),
        short="A summary without a body.\n\nTiny.",
        vague="Nope.\n\n" + BODY.format(2),
        echo="This summary is repeated.\n\nIndeed. This Summary is\nrepeated. " + BODY.format(3),
        _private="A private one here.\n\n" + BODY.format(4),
    )
    docs = api_docs.collect(["fakepkg"], None)
    assert [doc.name for doc in docs.docstrings] == ["fakepkg.good"]
    assert docs.dropped == {
        "equal body": 1,
        "short body": 1,
        "summary is no sentence": 1,
        "body repeats the summary": 1,
    }


def test_equal_summaries_are_one_query(package):
    package(
        a="Sum of all elements.\n\n" + BODY.format(1),
        b="Sum of all  Elements\n\n" + BODY.format(2),
    )
    queries, qrels = api_docs.collect(["fakepkg"], None).queries()
    assert queries == {"summary-fakepkg.a": "Sum of all elements."}
    assert qrels == {"summary-fakepkg.a": {"fakepkg.a": 1, "fakepkg.b": 1}}


def test_an_object_under_two_names_is_one_passage(package):
    module = package(a="Sum of all elements.\n\n" + BODY.format(1))
    module.z = module.a
    assert len(api_docs.collect(["fakepkg"], None).docstrings) == 1


def test_the_sample_depends_on_names_alone(package):
    docs = {f"f{i}": f"Summary of function {i}.\n\n{BODY.format(i)}" for i in range(30)}
    package(**docs)
    first = api_docs.collect(["fakepkg"], 10)
    package(**dict(reversed(docs.items())))
    assert api_docs.collect(["fakepkg"], 10) == first
    names = [f"fakepkg.{name}" for name in docs]
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"0:{name}".encode()).digest())[:10]
    assert [doc.name for doc in first.docstrings] == sorted(drawn)
    # A smaller sample is part of a larger one.
    fewer = {doc.name for doc in api_docs.collect(["fakepkg"], 5).docstrings}
    assert fewer < {doc.name for doc in first.docstrings}


def test_every_seed_of_a_run_has_the_same_collection(package, tmp_path):
    """Else seeds of a study would have different test queries."""
    package(**{f"f{i}": f"Summary of function {i}.\n\n{BODY.format(i)}" for i in range(30)})
    made, held_out = [], []
    for seed in (0, 1):
        config = base.get_config()
        config.seed = seed
        config.prep.update({"collection": "api_docs", "packages": ("fakepkg",), "max_passages": 20})
        workspace = open_workspace(config, tmp_path / str(seed))
        corpus.STAGE.run(workspace)
        files = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
        made.append([(workspace.dataset / name).read_bytes() for name in files])
        held_out.append(Roles.load(workspace.prep / ROLES_NAME).held_out.tolist())
    assert made[0] == made[1]
    assert held_out[0] != held_out[1]


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="not installed: no-such-package"):
        api_docs.collect(["numpy", "no-such-package"], None)


def test_numpy_is_a_corpus():
    docs = api_docs.collect(["numpy"], None)
    by_name = {doc.name: doc for doc in docs.docstrings}
    assert len(by_name) > 500
    assert by_name["numpy.add"].summary == "Add arguments element-wise."
    assert not any(".tests." in name or "._" in name for name in by_name)
    assert all(doc.summary not in doc.body for doc in docs.docstrings)
