"""The health of a corpus: sizes, lengths, duplicates, broken rows, overlap with the test split.

The report takes one pass over the passages, and needs 8 bytes of memory a passage, for the lengths.
"""

import array
import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpora.leaks import TestQueries
from data_prep.corpora.near_duplicates import NearDuplicates, Reason
from ldx.common.files import atomic_write
from ldx.common.progress import progress_bar
from ldx.common.texts import only_words
from ldx.data.cut import Cut
from ldx.eval.beir import Qrels
from ldx.eval.rows import BadRow
from ldx.records.schema import Passage, passage_text

QUANTILES = (5, 25, 50, 75, 95, 99)
NUM_REJECTS, NUM_EXAMPLES, NUM_SCRIPTS = 10, 5, 8  # the most of each in the report
EXAMPLE_CHARS, SHOWN_CHARS = 160, 60  # the length of example texts in the report, on the screen
NUM_BINS = 48  # bins of the histogram of lengths
LEAST_SHARE = 0.0001  # the share of letters from which on a script is shown on the screen
SCRIPTS = frozenset(
    """Latin Greek Cyrillic Armenian Georgian Hebrew Arabic Devanagari Bengali Gurmukhi Gujarati
    Tamil Telugu Kannada Malayalam Sinhala Thai Lao Khmer Myanmar Tibetan Ethiopic Hangul Hiragana
    Katakana Han""".split()  # noqa: SIM905
)


class RejectCounts:
    """A counter of rejected rows by the kind of reason, which also keeps the first rows."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[dict[str, str]] = []

    def __call__(self, bad: BadRow) -> None:
        """Take a row that `ldx.eval.passages.read_passages` rejects."""
        self.counts[bad.flaw.value] += 1
        if len(self.first) < NUM_REJECTS:
            row = {"where": bad.where, "reason": bad.reason, "excerpt": bad.excerpt}
            self.first.append(row)

    def report(self) -> dict[str, Any]:
        """The number of rejected rows, in all and by kind of reason, and the first of them."""
        by_reason = dict(self.counts.most_common())
        return {"rows": self.counts.total(), "by_reason": by_reason, "first": self.first}


def health_report(
    passages: Iterable[Passage],
    *,
    template: str = "{text}",
    max_chars: int | None = None,
    rejects: RejectCounts | None = None,
    near_duplicates: NearDuplicates | None = None,
    test_queries: Sequence[str] = (),
    train_queries: Iterable[str] = (),
    qrels: Mapping[str, Qrels] | None = None,
    cuts: Sequence[Cut] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """A report of what a user should know about a corpus before spending days on it.

    Args:
      passages: the passages of the corpus, in the order of their rows; they are read once.
      template: the template that joins title and text; the report is about the joined texts.
      max_chars: the length at which texts are cut for training; the report is about uncut texts.
      rejects: the rows that were rejected.
      near_duplicates: the near-duplicates among the passages.
      test_queries: the texts of the queries of the test split.
      train_queries: the texts of the queries that people wrote for training.
      qrels: the judgments by split.
      cuts: what the student's maximum lengths cut off.
      progress: whether to show a progress bar.

    Returns:
      Values that can be written as JSON.
    """
    parts: dict[str, Any] = {
        "lengths": _Lengths(max_chars),
        "near_duplicates": _Duplicates(near_duplicates),
        "test_overlap": _Overlap(test_queries, train_queries),
        "letters": _Letters(),
        "judged": _Judged(qrels or {}),
    }
    num_passages = num_titles = 0
    for passage in progress_bar(passages, desc="health", unit=" passages", disable=not progress):
        text = passage_text(passage.title, passage.text, template)
        for part in parts.values():
            part.add(num_passages, passage.doc_id, text)
        num_passages += 1
        num_titles += bool(passage.title.strip())
    assert near_duplicates is None or len(near_duplicates.reasons) == num_passages
    return {
        "passages": num_passages,
        "with_title": num_titles,
        "rejected": (rejects or RejectCounts()).report(),
        "cut_by_model": [dataclasses.asdict(cut) for cut in cuts],
        **{name: part.report() for name, part in parts.items()},
    }


class _Lengths:
    """The lengths of passages in characters and words, before the cut."""

    def __init__(self, max_chars: int | None):
        self._max_chars = max_chars
        self._chars, self._words = array.array("i"), array.array("i")

    def add(self, row: int, doc_id: str, text: str) -> None:
        self._chars.append(len(text))
        self._words.append(len(text.split()))

    def report(self) -> dict[str, Any]:
        chars, words = np.array(self._chars, np.int32), np.array(self._words, np.int32)
        return {
            "empty": int((chars == 0).sum()),
            "max_chars": self._max_chars,
            "cut": 0 if self._max_chars is None else int((chars > self._max_chars).sum()),
            "characters": _quantiles(chars),
            "words": _quantiles(words),
            "histogram": _histogram(chars),
        }


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    values = np.percentile(lengths, QUANTILES, method="lower").tolist()
    return {
        "total": int(lengths.sum(dtype=np.int64)),
        "mean": round(float(lengths.mean()), 1),
        "shortest": int(lengths.min()),
        **{f"p{q}": value for q, value in zip(QUANTILES, values, strict=True)},
        "longest": int(lengths.max()),
    }


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """A histogram of lengths, with bins that grow; an empty text counts as one character."""
    lengths = np.maximum(lengths, 1)
    end = int(lengths.max(initial=1)) + 1
    edges = np.unique(np.geomspace(lengths.min(initial=end - 1), end, NUM_BINS + 1).round())
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.astype(int).tolist(), "counts": counts.tolist()}


class _Duplicates:
    """The numbers of near-duplicates, and a few examples with the passages that contain them."""

    def __init__(self, duplicates: NearDuplicates | None):
        self._duplicates = duplicates
        self._pairs = [] if duplicates is None else _example_pairs(duplicates)
        self._example_rows = {row for pair in self._pairs for row in pair}
        self._examples: dict[int, dict[str, str]] = {}

    def add(self, row: int, doc_id: str, text: str) -> None:
        if row in self._example_rows:
            self._examples[row] = {"doc_id": doc_id, "text": text[:EXAMPLE_CHARS]}

    def report(self) -> dict[str, Any] | None:
        if self._duplicates is None:
            return None
        reasons = {k: num for k, num in self._duplicates.counts().items() if k != Reason.KEPT.text}
        examples = [
            {"reason": Reason(self._duplicates.reasons[row]).text}
            | {"dropped": self._examples[row], "kept": self._examples[container]}
            for row, container in self._pairs
        ]
        return {"dropped": sum(reasons.values()), **reasons, "examples": examples}


def _example_pairs(duplicates: NearDuplicates) -> list[tuple[int, int]]:
    """A few dropped rows and the rows that contain them, spread over the corpus."""
    pairs: list[tuple[int, int]] = []
    for reason in (Reason.EQUAL, Reason.CONTAINED):
        rows = np.flatnonzero(duplicates.reasons == reason)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), NUM_EXAMPLES), dtype=int)]
        pairs += [(int(row), int(duplicates.containers[row])) for row in rows]
    return pairs


class _Overlap:
    """The passages that hold a test query verbatim, and the training queries equal to one."""

    def __init__(self, test_queries: Sequence[str], train_queries: Iterable[str]):
        self._num_test, self._num_train, self._num_holding = len(test_queries), 0, 0
        self._test_queries = TestQueries(test_queries)
        self._holding: list[str] = []
        self._equal: list[str] = []
        test_words = {only_words(text) for text in test_queries}
        for text in train_queries:
            self._num_train += 1
            if only_words(text) in test_words:
                self._equal.append(text)

    def add(self, row: int, doc_id: str, text: str) -> None:
        if self._num_test and self._test_queries.leaks_into(text):
            self._num_holding += 1
            if len(self._holding) < NUM_EXAMPLES:
                self._holding.append(doc_id)

    def report(self) -> dict[str, Any]:
        return {
            "test_queries": self._num_test,
            "passages_with_one": self._num_holding,
            "passage_examples": self._holding,
            "train_queries": self._num_train,
            "train_queries_equal_to_one": len(self._equal),
            "train_query_examples": self._equal[:NUM_EXAMPLES],
        }


class _Letters:
    """Counts of letters by script, which the first word of a letter's Unicode name tells."""

    _ASCII_RUN = re.compile(r"[\x00-\x7f]+")
    _ASCII_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())

    def __init__(self) -> None:
        self._script: dict[str, str | None] = {}
        self._counts: Counter[str] = Counter()
        self._num_not_latin = 0

    def add(self, row: int, doc_id: str, text: str) -> None:
        letters = text.encode("ascii", "ignore").translate(None, self._ASCII_NO_LETTERS)
        counts = Counter(Latin=len(letters))
        if not text.isascii():
            for char, count in Counter(self._ASCII_RUN.sub("", text)).items():
                if script := self._script_of(char):
                    counts[script] += count
        self._counts.update(counts)
        self._num_not_latin += 2 * counts["Latin"] < counts.total()

    def _script_of(self, char: str) -> str | None:
        """The script of a letter; None for a character that is not a letter."""
        if char not in self._script:
            is_letter = unicodedata.category(char).startswith("L")
            name = unicodedata.name(char, "").partition(" ")[0].replace("CJK", "Han").capitalize()
            self._script[char] = (name if name in SCRIPTS else "other") if is_letter else None
        return self._script[char]

    def report(self) -> dict[str, Any]:
        total, most = max(1, self._counts.total()), self._counts.most_common(NUM_SCRIPTS)
        return {
            "letters": self._counts.total(),
            "not_latin": self._counts.total() - self._counts["Latin"],
            "passages_mainly_not_latin": self._num_not_latin,
            "shares": {name: round(count / total, 6) for name, count in most if count},
        }


class _Judged:
    """The judged passages that are not in the corpus, by split."""

    def __init__(self, qrels: Mapping[str, Qrels]):
        self._missing = {split: set[str]().union(*q.values()) for split, q in qrels.items()}
        self._num_judged = {split: len(docs) for split, docs in self._missing.items()}

    def add(self, row: int, doc_id: str, text: str) -> None:
        for docs in self._missing.values():
            docs.discard(doc_id)

    def report(self) -> dict[str, Any]:
        return {
            split: {"passages": self._num_judged[split], "missing": len(docs)}
            | {"examples": sorted(docs)[:NUM_EXAMPLES]}
            for split, docs in self._missing.items()
        }


def render(report: Mapping[str, Any]) -> str:
    """The report as a few aligned lines for the screen."""
    num, lengths = report["passages"], report["lengths"]
    lines = [("passages", f"{num:,}, {report['with_title']:,} with a title")]
    for name in ("characters", "words") if num else ():
        words = {"p5": "5%", "p50": "median", "p95": "95%", "longest": "longest"}
        values = (f"{word} {lengths[name][key]:,}" for key, word in words.items())
        lines.append((name, ", ".join(values)))
    if lengths["max_chars"] is not None:
        lines.append((f"cut at {lengths['max_chars']:,}", _share(lengths["cut"], num)))
    for number, cut in enumerate(Cut(**each) for each in report["cut_by_model"]):
        lines.append(("" if number else "cut by the model", cut.text))
    lines += _duplicate_lines(report["near_duplicates"], num)
    rejected = report["rejected"]
    by_reason = [f"{count:,} {reason}" for reason, count in rejected["by_reason"].items()]
    lines.append(("rejected rows", ", ".join(by_reason) or "0"))
    lines += [("", f"  {row['where']}: {row['reason']}") for row in rejected["first"]]
    lines += _overlap_lines(report["test_overlap"], num)
    letters = report["letters"]
    shares = [f"{name} {x:.2%}" for name, x in letters["shares"].items() if x >= LEAST_SHARE]
    lines.append(("letters", ", ".join(shares) or "none"))
    if num_not_latin := letters["passages_mainly_not_latin"]:
        lines.append(("", f"{_share(num_not_latin, num)} passages are mainly not in Latin letters"))
    for split, facts in report["judged"].items():
        missing = f"{facts['missing']:,} of {facts['passages']:,} passages are not in the corpus"
        lines.append((f"judged in {split}", missing + _such_as(facts["examples"])))
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:{width}}  {text}".rstrip() for label, text in lines)


def _share(number: int, total: int) -> str:
    return f"{number:,} ({number / max(1, total):.1%})"


def _such_as(names: Sequence[str]) -> str:
    return f", such as {', '.join(names)}" if names else ""


def _duplicate_lines(
    duplicates: Mapping[str, Any] | None, num_passages: int
) -> list[tuple[str, str]]:
    if duplicates is None:
        return [("near-duplicates", "not looked for")]
    counts = ", ".join(f"{duplicates[r.text]:,} {r.text}" for r in Reason if r != Reason.KEPT)
    lines = [("near-duplicates", f"{_share(duplicates['dropped'], num_passages)}: {counts}")]
    for example in duplicates["examples"]:
        ids = [example[which]["doc_id"] for which in ("dropped", "kept")]
        verb = " equals " if example["reason"] == "equal" else " is in "
        text = " ".join(example["dropped"]["text"].split())[:SHOWN_CHARS]
        lines.append(("", f"  {verb.join(ids)}: {text}"))
    return lines


def _overlap_lines(overlap: Mapping[str, Any], num_passages: int) -> list[tuple[str, str]]:
    if not overlap["test_queries"]:
        return []
    holding, equal = overlap["passages_with_one"], overlap["train_queries_equal_to_one"]
    line = (
        f"{_share(holding, num_passages)} passages hold one of {overlap['test_queries']:,} verbatim"
    )
    lines = [("test queries", line + _such_as(overlap["passage_examples"]))]
    if overlap["train_queries"]:
        line = f"{equal:,} of {overlap['train_queries']:,} training queries equal one"
        lines.append(("", line + _such_as(overlap["train_query_examples"])))
    return lines


def plot_lengths(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the histogram of lengths as a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    lengths = report["lengths"]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.stairs(lengths["histogram"]["counts"], lengths["histogram"]["edges"], fill=True)
    axes.set(xscale="log", xlabel="characters", ylabel="passages", title="Lengths of passages")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if lengths["max_chars"] is not None:
        label = f"cut at {lengths['max_chars']:,}: {_share(lengths['cut'], report['passages'])}"
        axes.axvline(lengths["max_chars"], color="C3", linestyle="--", label=label)
        axes.legend()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=120, format="png")
