"""Tests of data_prep/documents/prompt.py and documents.py: what is asked, and what is no answer."""

from collections import Counter

import pytest

from data_prep.documents.answer import DocumentFault, read_answer
from data_prep.documents.document import ID_PREFIX, Document, join_passages
from data_prep.documents.prompt import FOLDER, load_document_prompt
from ldx.common.errors import UserError
from ldx.records.schema import Passage

PUBLISHED = {1: "e5dd1c0e56ac0728f673ddb3f735bb75"}
WORDS = "banded solvers use the few diagonals of a matrix and so they need little memory"
GOOD = "\n\n".join(f"### LEVEL {level}\n{WORDS}, part {level}." for level in (3, 2, 1, 0))
MINE = """
version = 1
language = "de"
few_shot = 0
template = "Anfrage: {query}\\n{levels}"
level_template = "{level} {name} {meaning} {length} {style} {difficulty}"
lengths = ["kurz"]
styles = ["Brief", "Lexikon"]
difficulties = ["leicht"]

[[levels]]
level = 5
name = "gut"
meaning = "hilft"

[[levels]]
level = 0
name = "schlecht"
meaning = "hilft nicht"
"""


@pytest.fixture(scope="module")
def prompt():
    return load_document_prompt("four_levels")


def test_a_changed_prompt_has_a_new_version(prompt):
    assert PUBLISHED[prompt.version] == prompt.fingerprint
    assert [level.level for level in prompt.levels] == [3, 2, 1, 0]


def instructions(prompt, *arguments):
    """Length, form and readers that are asked for, by level."""
    text = prompt.messages("how thick is ice", *arguments)[-1]["content"]
    lines = (line for line in text.splitlines() if line.startswith("LEVEL"))
    return {line[: len("LEVEL 0")]: line.partition(" Length: ")[2] for line in lines}


def test_instructions_depend_on_seed_query_level_and_attempt_alone(prompt):
    first = instructions(prompt, "q1", 0, 0)
    assert instructions(prompt, "q1", 0, 0) == first
    others = [("q2", 0, 0), ("q1", 1, 0), ("q1", 0, 1)]
    assert all(instructions(prompt, *other) != first for other in others)
    seeds = {prompt.request_seed(*arguments) for arguments in [("q1", 0, 0), *others]}
    assert len(seeds) == 4


def test_no_level_has_a_length_a_form_or_readers_of_its_own(prompt):
    seen: dict[str, Counter[str]] = {}
    for i in range(300):
        for level, text in instructions(prompt, f"q{i}", 0, 0).items():
            seen.setdefault(level, Counter()).update(text.split(". "))
    kinds = len(prompt.lengths) + len(prompt.styles) + len(prompt.difficulties)
    assert [len(counts) for counts in seen.values()] == [kinds] * 4
    # Of 12 forms each is drawn 25 times of 300 on average, with a deviation of 4.8.
    assert min(min(counts.values()) for counts in seen.values()) >= 5


def test_braces_in_a_query_mean_nothing(prompt):
    text = prompt.messages("f({query}) {levels} {0}", "q1", 0, 0)[-1]["content"]
    assert text.count("f({query}) {levels} {0}") == 2


def test_every_example_is_a_good_answer(prompt):
    for example in prompt.examples:
        shown = prompt._example(example)
        found, reason = read_answer(shown, prompt, example.query, "stop")
        assert (found, reason) == ({}, DocumentFault.COPIED_EXAMPLE)
        changed, reason = read_answer(shown.replace(".", "!"), prompt, example.query, "stop")
        assert reason == ""
        assert list(changed) == [3, 2, 1, 0]


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        "Sure, here they are:\n\n" + GOOD + "\n\nNote: all lengths are as asked.",
        GOOD.replace("### LEVEL", "**Level").replace("\nbanded", " (some name):**\nbanded"),
        GOOD.replace("### LEVEL", "Level").replace("\nbanded", ": banded"),
        GOOD.replace("\nbanded", "\nPassage: banded").replace("\n\n", "\n\n---\n\n"),
        "<think>Level 3: what now?</think>" + GOOD.replace("use the", "use\nthe"),
        "\n\n".join(reversed(GOOD.split("\n\n"))),
    ],
)
def test_answers_that_are_good(prompt, answer):
    found, reason = read_answer(answer, prompt, "banded solvers", "stop")
    assert reason == ""
    assert list(found.items()) == [(n, f"{WORDS}, part {n}.") for n in (3, 2, 1, 0)]


def test_a_line_about_levels_is_no_heading(prompt):
    text = GOOD.replace("part 3.", "part 3.\nLevel 2 chargers draw more.")
    found, reason = read_answer(text, prompt, "chargers", "stop")
    assert reason == ""
    assert found[3].endswith("part 3. Level 2 chargers draw more.")


@pytest.mark.parametrize(
    ("answer", "finish_reason", "reason"),
    [
        (" \n", "stop", DocumentFault.EMPTY),
        (GOOD, "length", DocumentFault.CUT_OFF),
        (GOOD, "content_filter", DocumentFault.REFUSED),
        ("I'm sorry, but I cannot write such passages.", "stop", DocumentFault.REFUSED),
        (WORDS, "stop", DocumentFault.NO_HEADINGS),
        (GOOD.replace("LEVEL 1", "LEVEL 2"), "stop", DocumentFault.WRONG_LEVELS),
        (GOOD.rpartition("###")[0], "stop", DocumentFault.WRONG_LEVELS),
        (GOOD + f"\n### LEVEL 7\n{WORDS}", "stop", DocumentFault.WRONG_LEVELS),
        (GOOD.replace(WORDS + ", part 0", "Pigs fly"), "stop", DocumentFault.TOO_SHORT),
        (GOOD.replace("part 2", WORDS * 40), "stop", DocumentFault.TOO_LONG),
        (GOOD.replace(", part 0", "; this passage is irrelevant"), "stop", "speaks"),
        (GOOD.replace("part 1", "a highly relevant passage"), "stop", "speaks"),
        (GOOD.replace(", part 0", "; this page does not answer the query"), "stop", "speaks"),
        (GOOD.replace("banded", "While not relevant to the query, banded", 1), "stop", "speaks"),
        (GOOD.replace("part 1", "part 2"), "stop", DocumentFault.EQUAL),
    ],
)
def test_answers_that_are_none(prompt, answer, finish_reason, reason):
    reason = DocumentFault.SPEAKS_OF_TASK if reason == "speaks" else reason
    assert reason in set(DocumentFault)
    assert read_answer(answer, prompt, "banded solvers", finish_reason) == ({}, reason)


def test_a_passage_may_speak_as_its_query_does(prompt):
    text = GOOD.replace("part 1", "this level of relevance")
    assert read_answer(text, prompt, "banded solvers", "stop")[1] == DocumentFault.SPEAKS_OF_TASK
    assert read_answer(text, prompt, "what is this level of relevance", "stop")[1] == ""


PROSE = [
    "Note that part 3 of the form must reach the office by the first of May.",
    "Please note: passages through the canal close at six, and on Sundays at four.",
    "Would you like to appeal? Then write to the clerk within thirty days.",
    "These passages show how the author of the letters grew older and milder.",
    "Word count: limits differ from journal to journal, and so do their rules.",
    "To answer the query, the planner walks the index from its root to a leaf.",
    "We reply to your query within two days; the search query itself is not kept.",
    "Each document gets a relevance score, and a related passage is shown below.",
]
# These stay but in the last passage, where a model takes leave in such words.
LEAVE = [
    "Let me know in the comments how your loaf turned out, and how long it took.",
    "Feel free to ask at the counter, where the leaflets lie in six languages.",
    "I hope this helps somebody with a leaking tap: turn off the water first.",
]


@pytest.mark.parametrize(
    ("level", "prose"), [(level, p) for level in (3, 0) for p in PROSE] + [(3, p) for p in LEAVE]
)
def test_the_last_paragraph_of_a_passage_stays(prompt, level, prose):
    text = GOOD.replace(f"part {level}.", f"part {level}.\n\n{prose}")
    found, reason = read_answer(text, prompt, "banded solvers", "stop")
    assert reason == ""
    assert found[level] == f"{WORDS}, part {level}. {prose}"
    # A passage may have no other.
    alone = GOOD.replace(f"{WORDS}, part {level}.", prose)
    assert read_answer(alone, prompt, "banded solvers", "stop")[0][level] == prose


@pytest.mark.parametrize(
    "remark",
    [
        "Note: these passages are invented, and so are their numbers.",
        "**Note:** All four passages follow the given lengths.",
        "(Please note that the passages above vary in form.)",
        "Let me know if you'd like any changes.",
        "Please let me know if you would like me to adjust the passages, or write more!",
        "Feel free to adjust these passages.",
        "I hope this helps!",
        "I hope this helps! Let me know if you need anything else.",
        "I hope these passages meet your requirements.",
        "Would you like me to revise any of them?",
        "These passages are designed to match the four levels of relevance.",
        "The four passages differ in length and readers.",
        "I've kept the passages above free of the query's words.",
        "(Word count: 85)",
    ],
)
def test_remarks_about_the_answer_go_with_its_last_passage_alone(prompt, remark):
    for end in (f"\n\n{remark}", f"\n\n---\n{remark}\n\nI hope this helps."):
        found, reason = read_answer(GOOD + end, prompt, "banded solvers", "stop")
        assert reason == ""
        assert found[0] == f"{WORDS}, part 0."
    inside = GOOD.replace("part 3.", f"part 3.\n{remark}")
    found, reason = read_answer(inside, prompt, "banded solvers", "stop")
    assert reason == ""
    stays = "" if remark == "(Word count: 85)" else " " + remark.replace("**", "")
    assert found[3] == f"{WORDS}, part 3.{stays}"


def test_a_last_passage_of_remarks_alone_is_none(prompt):
    end = "Note: these passages are invented, and so are the numbers in all of them."
    text = GOOD.replace(f"{WORDS}, part 0.", end)
    assert read_answer(text, prompt, "banded solvers", "stop")[1] == DocumentFault.TOO_SHORT


def test_a_prompt_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    mine = load_document_prompt(str(path))
    (message,) = mine.messages("eis", "q1", 0, 0)
    assert message["content"].startswith("Anfrage: eis\n5 gut hilft kurz ")
    answer = "### LEVEL 5\n" + "wort " * 10 + "\n### LEVEL 0\n" + "text " * 10
    assert list(read_answer(answer, mine, "eis", "stop")[0]) == [5, 0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{levels}", "{level}", r"template has no \{levels\}.*\n.*\{level\}, which nothing fills"),
        ("level = 5", "level = 0", r"levels are \[0, 0\]"),
        ("few_shot = 0", "few_shot = 1", r"template has no \{examples\}"),
        ('lengths = ["kurz"]', "lengths = []", r"lengths = \[\]; wanted .*at least one"),
        ("styles", "style", "did you mean styles"),
        ('meaning = "hilft"', "", r"levels\[1\]\.meaning is missing"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    assert old in MINE
    path.write_text(MINE.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_document_prompt(str(path))


def test_shipped_prompts_are_found_and_others_named():
    assert {path.stem for path in FOLDER.glob("*.toml")} == {"four_levels"}
    with pytest.raises(UserError, match="did you mean four_levels"):
        load_document_prompt("for_levels")


def test_written_passages_follow_the_corpus_and_never_have_its_names():
    corpus = [Passage("d1", "t", "text"), Passage("d2", "", "text")]
    joined = list(join_passages(corpus, [Document("q1", 3, "new")]))
    assert joined == [*corpus, Passage(f"{ID_PREFIX}q1:3", "", "new")]
    with pytest.raises(UserError, match=f"'{ID_PREFIX}q1:3'"):
        list(join_passages([joined[2]], []))
