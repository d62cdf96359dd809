"""The health report says what is in the corpus, and can be written and shown."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.corpora.health import RejectCounts, health_report, plot_lengths, render
from data_prep.corpora.near_duplicates import find_near_duplicates
from ldx.eval import beir
from ldx.eval.passages import read_passages
from ldx.eval.rows import BadRow, Flaw
from ldx.records.schema import Passage

TEXTS = [
    "The drag of a thin wing in slow air.",
    "the DRAG of a thin wing, in slow air!",
    "It is known that the drag of a thin wing in slow air.",
    "What is the drag of a wing? It is a force, and it is large.",
    "Подъёмная сила крыла самолёта",
    "翼の揚力は α に比例する",
    "word " * 500,
    "tiny 1",
]
PASSAGES = [Passage(f"d{i}", "T" * (i % 2), text) for i, text in enumerate(TEXTS)]


@pytest.fixture
def report(tmp_path: Path) -> dict:
    rejects = RejectCounts()
    for line in range(12):
        rejects(BadRow(f"c.jsonl:{line}", Flaw.BAD_FIELD, "no text", "{}"))
    rejects(BadRow("c.jsonl:99", Flaw.EMPTY_TEXT, "nothing", "{}"))
    return health_report(
        PASSAGES,
        max_chars=1000,
        rejects=rejects,
        near_duplicates=find_near_duplicates(TEXTS, folder=tmp_path, progress=False),
        test_queries=["What is the drag of a wing?", "lift", "the force of the air"],
        train_queries=["Lift!", "what is lift", "drag"],
        qrels={"test": {"q1": {"d0": 1, "gone": 0}, "q2": {"gone": 1, "lost": 2}}, "dev": {}},
        progress=False,
    )


def test_what_is_counted(report: dict) -> None:
    assert json.loads(json.dumps(report)) == report
    assert (report["passages"], report["with_title"]) == (8, 4)
    lengths = report["lengths"]
    chars, words = [len(t.strip()) for t in TEXTS], [len(t.split()) for t in TEXTS]
    for name, values in (("characters", chars), ("words", words)):
        facts = lengths[name]
        assert facts["total"] == sum(values)
        assert (facts["shortest"], facts["longest"]) == (min(values), max(values))
        assert facts["p50"] == sorted(values)[(len(values) - 1) // 2]
    assert (lengths["max_chars"], lengths["cut"], lengths["empty"]) == (1000, 1, 0)
    histogram = lengths["histogram"]
    assert sum(histogram["counts"]) == 8
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    rejected = report["rejected"]
    assert (rejected["rows"], rejected["by_reason"]) == (13, {"bad field": 12, "empty text": 1})
    assert [row["where"] for row in rejected["first"]] == [f"c.jsonl:{i}" for i in range(10)]
    assert report["judged"] == {
        "test": {"passages": 3, "missing": 2, "examples": ["gone", "lost"]},
        "dev": {"passages": 0, "missing": 0, "examples": []},
    }


def test_near_duplicates_come_with_what_holds_them(report: dict) -> None:
    found = report["near_duplicates"]
    numbers = [found[name] for name in ("dropped", "equal", "contained", "too short")]
    assert numbers == [3, 0, 2, 1]
    for example, dropped in zip(found["examples"], (0, 1), strict=True):
        assert example["reason"] == "contained"
        assert example["dropped"] == {"doc_id": f"d{dropped}", "text": TEXTS[dropped]}
        assert example["kept"] == {"doc_id": "d2", "text": TEXTS[2]}


def test_examples_are_from_the_whole_corpus(tmp_path: Path) -> None:
    texts = ["always the same text"] * 1000
    passages = [Passage(str(i), "", text) for i, text in enumerate(texts)]
    found = find_near_duplicates(texts, folder=tmp_path, progress=False)
    report = health_report(passages, near_duplicates=found, progress=False)
    ids = [example["dropped"]["doc_id"] for example in report["near_duplicates"]["examples"]]
    assert ids == ["1", "250", "500", "749", "999"]


def test_overlap_with_the_test_split(report: dict) -> None:
    assert report["test_overlap"] == {
        "test_queries": 3,
        "passages_with_one": 1,
        "passage_examples": ["d3"],
        "train_queries": 3,
        "train_queries_equal_to_one": 1,
        "train_query_examples": ["Lift!"],
    }


def test_letters_by_script(report: dict) -> None:
    letters = report["letters"]
    num = {
        "Cyrillic": 26,
        "Han": 5,
        "Hiragana": 5,
        "Greek": 1,
        "Latin": sum(c.isascii() and c.isalpha() for text in TEXTS for c in text),
    }
    assert letters["letters"] == sum(num.values())
    assert letters["not_latin"] == 37
    assert letters["shares"] == {
        name: round(count / sum(num.values()), 6)
        for name, count in sorted(num.items(), key=lambda item: -item[1])
    }
    assert letters["passages_mainly_not_latin"] == 2


def test_accented_letters_are_latin_and_signs_are_none() -> None:
    passages = [Passage("a", "", "Ångström café – 5 µm ½ €")]
    letters = health_report(passages, progress=False)["letters"]
    assert letters["letters"] == 14
    assert letters["shares"] == {"Latin": round(13 / 14, 6), "other": round(1 / 14, 6)}  # µ


def test_title_and_text_are_joined() -> None:
    passages = [Passage("a", "Lift", "of a wing"), Passage("b", " ", "x")]
    report = health_report(passages, template="{title} {text}", progress=False)
    assert report["lengths"]["characters"]["longest"] == len("Lift of a wing")
    assert report["with_title"] == 1
    assert report["near_duplicates"] is None
    assert "not looked for" in render(report)


def test_near_duplicates_of_other_passages_are_refused(tmp_path: Path) -> None:
    found = find_near_duplicates(TEXTS[:3], folder=tmp_path, progress=False)
    with pytest.raises(AssertionError):
        health_report(PASSAGES, near_duplicates=found, progress=False)


def test_what_is_shown(report: dict) -> None:
    text = render(report)
    lines = text.splitlines()
    assert all(len(line) <= 120 for line in lines)
    labelled = [line for line in lines if line[0] != " "]
    assert len({len(line) - len(line.split("  ", 1)[1].lstrip()) for line in labelled}) == 1
    for part in (
        "8, 4 with a title",
        "cut at 1,000",
        "1 (12.5%)",
        "3 (37.5%): 1 too short, 0 equal, 2 contained",
        "d0 is in d2: The drag of a thin wing",
        "12 bad field, 1 empty text",
        "c.jsonl:9: bad field: no text",
        "1 (12.5%) passages hold one of 3 verbatim, such as d3",
        "1 of 3 training queries equal one, such as Lift!",
        "2 of 3 passages are not in the corpus, such as gone, lost",
        "letters          Latin 98.30%, Cyrillic 1.19%, Han 0.23%",
        "2 (25.0%) passages are mainly not in Latin letters",
    ):
        assert part in text, part
    assert "c.jsonl:10" not in text


def test_no_passages(tmp_path: Path) -> None:
    report = health_report([], max_chars=10, progress=False)
    json.dumps(report)
    assert render(report)
    plot_lengths(report, tmp_path / "lengths.png")


def test_the_plot_is_a_picture_of_the_histogram(report: dict, tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_lengths(report, tmp_path / "lengths.png")
    image = imread(tmp_path / "lengths.png")
    assert image.shape[0] > 200 < image.shape[1]
    assert np.unique(image.reshape(-1, image.shape[2]), axis=0).shape[0] > 3
    assert [path.name for path in tmp_path.glob("*png*")] == ["lengths.png"]


@pytest.mark.parametrize(("name", "num"), [("scifact", 5183), ("nfcorpus", 3633)])
def test_real_collections(data_dir: Path, tmp_path: Path, name: str, num: int) -> None:
    dataset = beir.load_dataset(data_dir / name, "test")
    rejects = RejectCounts()
    passages = [p for _, p in read_passages(str(data_dir / name), reject=rejects)]
    texts = [passage.text for passage in passages]
    report = health_report(
        passages,
        max_chars=2048,
        rejects=rejects,
        near_duplicates=find_near_duplicates(texts, folder=tmp_path, progress=False),
        test_queries=list(dataset.queries.values()),
        qrels={"test": dataset.qrels},
        progress=False,
    )
    assert report["passages"] + report["rejected"]["rows"] == num
    lengths = np.array([len(text.strip()) for text in texts])
    assert report["lengths"]["cut"] == (lengths > 2048).sum()
    assert report["lengths"]["characters"]["mean"] == pytest.approx(lengths.mean(), abs=0.05)
    assert report["letters"]["shares"]["Latin"] > 0.98
    assert report["judged"]["test"]["missing"] == 0
