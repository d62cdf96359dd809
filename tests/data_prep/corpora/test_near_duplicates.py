"""Near-duplicates are those of the definition, whatever the memory they are found in."""

import builtins
import errno
import re
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from data_prep.corpora import near_duplicates
from data_prep.corpora.near_duplicates import (
    NearDuplicates,
    Reason,
    comparable,
    find_near_duplicates,
)
from ldx.common.errors import UserError
from ldx.eval import beir

KEPT, TOO_SHORT, EQUAL, CONTAINED = Reason


def find(texts: list[str], folder: Path, **options: Any) -> NearDuplicates:
    return find_near_duplicates(texts, folder=folder, progress=False, **options)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The\tQuick\r\n Fox.  ", "the quick fox"),
        ("state-of-the-art (2024): +5 %", "stateoftheart"),
        ("Café, naïve, Ångström, ﬁne", "cafe naive angstrom fine"),
        ("İstanbul I", "istanbul i"),
        ("x² and ①, ½", "x and"),
        ("a\u00a0b\u2003c\u2028d\x1ce", "a b c d e"),
        ("zero\u200bwidth soft\u00adhyphen nul\0l", "zerowidth softhyphen null"),
        ("snake_case $5 ≤ 6 €", "snakecase"),
        ("Ελλάδα ΟΔΟΣ", "ελλαδα οδος"),
        ("がぎ ＡＢ", "がぎ ab"),  # the mark of が is no accent
        ("한국어", "한국어"),  # composed again: three characters
        ("हिन्दी १२", "हिन्दी"),
        ("\ud800 half", "half"),
        ("", ""),
    ],
)
def test_normalize(text: str, wanted: str) -> None:
    assert comparable(text) == wanted


def test_digits_can_be_kept() -> None:
    assert comparable("On 3.5.1999, ٣ of x²", keep_digits=True) == "on 351999 ٣ of x2"
    assert comparable("On 3.5.1999, ٣ of x²") == "on of x"


def formula(text: str) -> str:
    """The recipe on Latin text: NFKC, no accents, lower case, no digits, no punctuation."""
    parts = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    letters = "".join(part for part in parts if not unicodedata.combining(part)).lower()
    return " ".join(re.sub(r"[\d_]|[^\w\s]", "", letters).split())


LATIN = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.sampled_from("\n\tāőŁﬁ’“–²①Ⅳ"),
    max_size=60,
)


@given(LATIN)
def test_normalize_equals_the_formula_on_latin_text(text: str) -> None:
    assert comparable(text) == formula(text)


@given(st.text(max_size=60))
def test_a_normalized_text_stays_as_it_is(text: str) -> None:
    once = comparable(text)
    assert not re.search(r"[\n\0]|\s\s|^\s|\s$", once)
    assert not any(c.isdecimal() for c in once)
    once.encode()


# ---- The definition, stated again without sorting: places in an order are counted.


def definition(texts: list[str], window: int, min_chars: int) -> np.ndarray:
    """Which rows are dropped, by the words of the module's head."""
    keys = [comparable(text) for text in texts]
    rows = [row for row, key in enumerate(keys) if len(key) >= min_chars and key not in keys[:row]]
    dropped = np.ones(len(texts), bool)
    dropped[rows] = False
    for direction in (1, -1):
        place = {a: sum(keys[b][::direction] < keys[a][::direction] for b in rows) for a in rows}
        for a in rows:
            near = [b for b in rows if 0 < place[b] - place[a] <= window]
            dropped[a] |= any(keys[a] in keys[b] for b in near)
    return dropped


WORDS = st.sampled_from(["a", "b", "ab", "ba", "é", "日", "1", "A.", " "])
TEXTS = st.lists(st.lists(WORDS, max_size=7).map(" ".join), max_size=24)


@settings(max_examples=150)
@given(TEXTS, st.integers(1, 10), st.integers(0, 4), st.sampled_from([100, 500, 2**20]))
def test_equals_the_definition(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    window: int,
    min_chars: int,
    memory_bytes: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "equals_the_definition"
    found = find(texts, folder, window=window, min_chars=min_chars, memory_bytes=memory_bytes)
    np.testing.assert_array_equal(found.dropped, definition(texts, window, min_chars))
    keys = [comparable(text) for text in texts]
    for row, (reason, container) in enumerate(zip(found.reasons, found.containers, strict=True)):
        assert (reason == TOO_SHORT) == (len(keys[row]) < min_chars)
        assert (container >= 0) == (reason in (EQUAL, CONTAINED))
        if container >= 0:
            assert found.reasons[container] == KEPT
            assert keys[row] in keys[container]
            assert (keys[row] == keys[container]) == (reason == EQUAL)
    assert sum(found.counts().values()) == len(texts)


@settings(max_examples=50)
@given(TEXTS)
def test_with_a_wide_window_no_text_begins_or_ends_another(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "wide_window"
    found = find(texts, folder, window=100, min_chars=1)
    kept = [comparable(texts[row]) for row in np.flatnonzero(found.reasons == KEPT)]
    assert len(set(kept)) == len(kept)
    for a in kept:
        assert not any(a != b and (b.startswith(a) or b.endswith(a)) for b in kept)


def test_of_equal_texts_the_lowest_row_stays(tmp_path: Path) -> None:
    texts = ["Other words here.", *["The same text 1"] * 20, "THE SAME: text 2", "the same text!"]
    found = find(texts, tmp_path)
    assert found.reasons.tolist() == [KEPT, KEPT] + [EQUAL] * 21
    assert found.containers.tolist() == [-1, -1] + [1] * 21


def test_a_chain_leads_to_the_text_that_stays(tmp_path: Path) -> None:
    texts = [
        "drag of a wing",  # ends row 1, which begins row 2
        "lift and drag of a wing",
        "lift and drag of a wing, as measured",
        "drag of a wing, as measured",  # ends row 2
        "and drag of",  # in the middle
        "wing 12",
    ]
    found = find(texts, tmp_path)
    assert found.reasons.tolist() == [
        CONTAINED,
        CONTAINED,
        KEPT,
        CONTAINED,
        CONTAINED,
        TOO_SHORT,
    ]
    assert found.containers.tolist() == [2, 2, -1, 2, 2, -1]


def test_a_chain_of_many_equal_texts(tmp_path: Path) -> None:
    found = find(["always the same"] * 3000 + ["always the same again"], tmp_path)
    assert (found.containers[:3000] == 3000).all()
    assert found.counts() == {"kept": 1, "too short": 0, "equal": 0, "contained": 3000}


@pytest.mark.parametrize("num_between", [8, 9])
def test_the_ninth_neighbour_counts_and_the_tenth_does_not(
    tmp_path: Path, num_between: int
) -> None:
    # In both orders the others stand between: they begin with c and end in d.
    others = [f"c{letter} another text {letter}d" for letter in "efghijklm"[:num_between]]
    texts = ["bbbbbbbbbb", "cz bbbbbbbbbb q", *others]
    found = find(texts, tmp_path)
    assert found.dropped.tolist() == [num_between == 8] + [False] * (num_between + 1)
    assert find(texts, tmp_path, window=num_between + 1).dropped[0]
    assert not find(texts, tmp_path, window=num_between).dropped[0]


def test_copies_of_a_text_take_one_place(tmp_path: Path) -> None:
    # Ten places of copies would part row 0 from row 11 in both orders.
    texts = ["bbbbbbbbbb", *["ce another text ed"] * 10, "cz bbbbbbbbbb q"]
    found = find(texts, tmp_path)
    assert found.containers.tolist() == [11, -1, *[1] * 9, -1]


def test_a_text_that_is_dropped_leads_on(tmp_path: Path) -> None:
    # Row 0 ends row 1, which begins row 2; twenty others part row 0 from row 2 in both orders.
    letters = "efghijklmnopqrstuvwx"
    others = [f"lift {letter} and drag alone {letter}z" for letter in letters]
    others += [f"m {letter} wing {letter}g" for letter in letters]
    texts = ["drag of a wing", "lift of drag of a wing", "lift of drag of a wing in air", *others]
    found = find(texts, tmp_path)
    assert found.containers[:3].tolist() == [2, 2, -1]
    assert not found.dropped[2:].any()
    assert not find([texts[0], *texts[2:]], tmp_path).dropped.any()


def test_short_texts_are_counted_in_characters(tmp_path: Path) -> None:
    texts = [
        "nine char",
        "ten  characters",
        "123456789 a",
        "日本語日本語日本語",
        "日本語日本語日本語日",
    ]
    reasons = find(texts, tmp_path).reasons.tolist()
    assert reasons == [
        TOO_SHORT,
        KEPT,
        TOO_SHORT,
        TOO_SHORT,
        KEPT,
    ]
    assert find(texts, tmp_path, min_chars=0).reasons.tolist()[0] == KEPT


def test_tables_are_equal_without_their_digits(tmp_path: Path) -> None:
    texts = ["Table 1: 17 wings in 1903", "Table 2: 18 wings in 1904"]
    assert find(texts, tmp_path).counts()["equal"] == 1
    assert find(texts, tmp_path, keep_digits=True).counts()["kept"] == 2


def test_no_texts(tmp_path: Path) -> None:
    found = find([], tmp_path)
    assert len(found.reasons) == len(found.containers) == 0
    assert found.counts()["kept"] == 0


def many_texts(num: int) -> Iterator[str]:
    """Texts of random words; some are cut out of the one before."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(500)])
    text = ""
    for number in range(num):
        if number % 10:
            text = " ".join(rng.choice(words, 60))
        yield text if number % 20 else text[: len(text) // 2]


def test_memory_is_bounded_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 8000
    whole = find_near_duplicates(many_texts(num), folder=tmp_path, progress=False)
    assert whole.counts()["equal"] > 300 < whole.counts()["contained"]
    monkeypatch.setattr(near_duplicates, "MAX_FILES", 7)
    tracemalloc.start()
    found = find_near_duplicates(
        many_texts(num), folder=tmp_path, memory_bytes=100_000, progress=False
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found.reasons, whole.reasons)
    np.testing.assert_array_equal(found.containers, whole.containers)
    assert peak < 1_000_000  # of 4 MB of texts, and as much again in lists


def test_temporary_files_go(tmp_path: Path) -> None:
    leftover = tmp_path / near_duplicates.TEMPORARY_NAME / "forwards-0"
    leftover.parent.mkdir()
    leftover.write_bytes(b"zz of a run that was killed\0000000000001\n")
    found = find(["zz of a run that was", "something else"] * 20, tmp_path, memory_bytes=500)
    assert found.counts()["kept"] == 2
    assert list(tmp_path.iterdir()) == []

    def broken() -> Iterator[str]:
        yield from many_texts(50)
        assert any((tmp_path / near_duplicates.TEMPORARY_NAME).iterdir())
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        find_near_duplicates(broken(), folder=tmp_path, memory_bytes=500, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(UserError, match="No space left on device"):
        find(list(many_texts(50)), tmp_path, memory_bytes=500)


@pytest.mark.parametrize("name", ["scifact", "nfcorpus", "cranfield"])
def test_real_collections(data_dir: Path, tmp_path: Path, name: str) -> None:
    texts = beir.read_corpus(data_dir / name).texts
    found = find(texts, tmp_path)
    keys = [comparable(text) for text in texts]
    kept = np.flatnonzero(~found.dropped)
    assert len({keys[row] for row in kept}) == len(kept)
    for row in np.flatnonzero(found.containers >= 0):
        assert keys[row] in keys[found.containers[row]]
    # The published code drops the same texts: no copy of one fills up a window here.
    assert {keys[row] for row in kept} == {keys[row] for row in np.flatnonzero(~published(keys))}


def published(keys: list[str]) -> np.ndarray:
    """Which rows the public code drops: it sorts all texts, copies too, both times."""
    dropped = np.array([len(key) < 10 for key in keys])
    for direction in (1, -1):
        order = sorted(range(len(keys)), key=lambda row: keys[row][::direction])
        for place, row in enumerate(order):
            dropped[row] |= any(keys[row] in keys[o] for o in order[place + 1 : place + 10])
    return dropped
