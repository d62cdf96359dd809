"""Tests of data_prep/queries/prompt.py and of the prompts in data_prep/prompts/."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from data_prep.llm.base import Sampling
from data_prep.llm.prompt_files import SHIPPED
from data_prep.queries.prompt import load_prompts, request_seed, shipped_prompts
from ldx.common.errors import UserError

TYPES = ["claim", "keywords", "question", "title", "web_search_few_shot", "web_search_zero_shot"]
PASSAGE = "Braces cut the sway of the bridge by half."
MINE = '''
version = 1
query_type = "headline_de"
language = "de"
few_shot = 1
template = """
Schreibe eine Schlagzeile.

{examples}

Text: {passage}
Schlagzeile:"""
example_template = """
Text: {passage}
Schlagzeile: {query}"""

[sampling]
temperature = 1
stop = ["\\n"]

[answer]
labels = ["Schlagzeile"]

[[examples]]
passage = "Ein Zug blieb acht Stunden im Schnee stecken."
query = "Zug steckt im Schnee fest"

[[examples]]
passage = "Der Rat hat den Bau des Bades beschlossen."
query = "Rat stimmt für neues Bad"
'''


@pytest.fixture
def write(tmp_path):
    """Writes a prompt of one's own, with changes, and returns its path."""

    def make(*changes, name="mine.toml"):
        text = MINE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return make


def test_the_six_types_are_shipped():
    assert shipped_prompts() == TYPES
    prompts = load_prompts(TYPES)
    assert [prompt.query_type for prompt in prompts] == TYPES
    for prompt in prompts:
        is_zero_shot = prompt.query_type == "web_search_zero_shot"
        assert prompt.few_shot == (0 if is_zero_shot else 3)
        assert len(prompt.examples) in ([0] if is_zero_shot else range(8, 13))
        assert prompt.sampling == Sampling(temperature=0.8, top_p=1.0, max_tokens=50, stop=())
        assert len({example.query for example in prompt.examples}) == len(prompt.examples)


def test_no_example_stands_in_two_types():
    examples = [example.passage for prompt in load_prompts(TYPES) for example in prompt.examples]
    assert len(set(examples)) == len(examples)


# A changed prompt has a new version, so that records tell which one made their queries: raise the
# number in the file, and write down here what it has become.
PUBLISHED = {
    ("claim", 1): "d980b10e9abcdcf9bfd9daa93bf9b40a",
    ("keywords", 1): "c836e94f281f704d6311ef6be7d39e46",
    ("question", 1): "c7b21d38351ab4eb1215e9a671d00195",
    ("title", 1): "b967d4911aaabdeb496d8b9771167833",
    ("web_search_few_shot", 1): "1d11a7b24d31e5cdd8f893e97a547e04",
    ("web_search_zero_shot", 1): "8d1b8581922cde7263b3b69af4b7e558",
}


def test_a_changed_prompt_has_a_new_version():
    for prompt in load_prompts(TYPES):
        assert PUBLISHED[prompt.query_type, prompt.version] == prompt.fingerprint


@pytest.mark.parametrize("name", TYPES)
def test_messages(name):
    (prompt,) = load_prompts([name])
    system, user = prompt.messages(f"\n{PASSAGE} ", "d1", 0)
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"] == prompt.system
    assert user["content"].count(f"Passage: {PASSAGE}\n") == 1
    shown = [example for example in prompt.examples if example.query in user["content"]]
    assert len(shown) == prompt.few_shot
    assert all(f"Passage: {example.passage}\n" in user["content"] for example in shown)
    # It ends where the model is to go on, with a label that cleaning knows.
    cue = user["content"].splitlines()[-1]
    assert cue.endswith(":")
    assert cue.removesuffix(":").split()[-1].lower() in [x.lower() for x in prompt.answer.labels]


def test_braces_in_a_passage_mean_nothing():
    passage = "f({passage}) {examples} {query} {0} {} {{x}} %s \\1 \\g<0>"
    for prompt in load_prompts(TYPES):
        content = prompt.messages(passage, "d1", 0)[-1]["content"]
        assert content.count(passage) == 1
        plain = prompt.messages("PLAIN", "d1", 0)[-1]["content"]
        assert content == plain.replace("PLAIN", passage)


def test_braces_in_an_example_mean_nothing(write):
    path = write(("Ein Zug", "Ein {query} {passage} {examples}"), ("few_shot = 1", "few_shot = 2"))
    (prompt,) = load_prompts([path])
    content = prompt.messages("PLAIN", "d1", 0)[-1]["content"]
    assert "Ein {query} {passage} {examples} blieb" in content
    assert content.count("PLAIN") == 1


def test_draws_are_the_same_in_another_process_which_loads_nothing_heavy():
    code = (
        "import json, sys; from data_prep.queries import answer, prompt; p = prompt.load_prompts("
        f"{TYPES!r}); print(json.dumps([[[x.messages('text', str(d), 7) for d in range(20)], "
        "x.fingerprint, prompt.request_seed(7, 'd', x.query_type, 1)] for x in p]));"
        "heavy = {'torch', 'transformers', 'vllm', 'jax', 'pyarrow', 'bm25s'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    here = [
        [
            [prompt.messages("text", str(d), 7) for d in range(20)],
            prompt.fingerprint,
            request_seed(7, "d", prompt.query_type, 1),
        ]
        for prompt in load_prompts(TYPES)
    ]
    assert json.loads(outputs.pop()) == here


def test_examples_are_drawn_evenly_by_passage_type_and_seed():
    question, few_shot = load_prompts(["question", "web_search_few_shot"])
    counts: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    num_passages = 3000
    for number in range(num_passages):
        drawn = [example.query for example in question._drawn(f"d{number}", 0)]
        assert len(set(drawn)) == 3
        counts.update(drawn)
        firsts[drawn[0]] += 1
    for counter, chance in ((counts, 3 / 12), (firsts, 1 / 12)):
        assert len(counter) == 12
        deviation = (num_passages * chance * (1 - chance)) ** 0.5
        assert all(abs(n - num_passages * chance) < 4 * deviation for n in counter.values())

    def numbers(prompt, seed):
        return [[prompt.examples.index(e) for e in prompt._drawn(str(d), seed)] for d in range(50)]

    assert numbers(question, 0) != numbers(question, 1)
    assert numbers(question, 0) != numbers(few_shot, 0)


def test_request_seeds_differ_and_fit_31_bits():
    seeds = {
        request_seed(seed, f"d{number}", name, attempt)
        for seed in (0, 1)
        for number in range(100)
        for name in TYPES
        for attempt in range(3)
    }
    # Of 3,600 numbers under 2**31 hardly two are equal by chance (p = 0.003).
    assert len(seeds) == 2 * 100 * 6 * 3
    assert all(isinstance(seed, int) for seed in seeds)
    assert min(seeds) >= 0
    assert 2**30 < max(seeds) < 2**31


def test_a_file_adds_a_type(write):
    mine, title = load_prompts([write(), "title"])
    assert (mine.query_type, title.query_type) == ("headline_de", "title")
    assert mine.sampling == Sampling(temperature=1, stop=("\n",))
    assert mine.answer.labels == ("Schlagzeile",)
    assert mine.messages(PASSAGE, "d1", 0) == [
        {
            "role": "user",
            "content": "Schreibe eine Schlagzeile.\n\n"
            f"Text: {mine._drawn('d1', 0)[0].passage}\n"
            f"Schlagzeile: {mine._drawn('d1', 0)[0].query}\n\n"
            f"Text: {PASSAGE}\nSchlagzeile:",
        }
    ]


def test_the_fingerprint_tells_what_is_asked(write):
    def fingerprint(*changes):
        return load_prompts([write(*changes)])[0].fingerprint

    same = [
        fingerprint(),
        fingerprint(('labels = ["Schlagzeile"]', "max_words = 9")),
        fingerprint(('language = "de"', 'language = "de-AT"')),
    ]
    others = [
        fingerprint(("version = 1", "version = 2")),
        fingerprint(("headline_de", "headline")),
        fingerprint(("few_shot = 1", "few_shot = 2")),
        fingerprint(("Schreibe eine", "Schreib eine")),
        fingerprint(("Text: {passage}\nSchlagzeile: {query}", "{passage} = {query}")),
        fingerprint(("temperature = 1", "temperature = 0.5")),
        fingerprint(('stop = ["\\n"]', "")),
        fingerprint(("neues Bad", "Bad")),
        fingerprint(("few_shot = 1", 'few_shot = 1\nsystem = "Du bist Redakteur."')),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("version = 1", "")], "version is missing; wanted a whole number of at least 1"),
        ([("version = 1", "version = true")], "version = True; wanted a whole number"),
        ([("headline_de", "head/line")], "query_type = 'head/line'; wanted a name"),
        ([("headline_de", "")], "query_type = ''; wanted a name"),
        ([("headline_de", "human")], "the type of queries written by people"),
        ([('"de"', '"German"')], "language = 'German'; wanted a language tag"),
        ([("few_shot = 1", "few_shot = -1")], "few_shot = -1; wanted a whole number"),
        ([("few_shot = 1", "few_shot = 3")], "few_shot = 3, but there are 2 [[examples]]"),
        ([("few_shot = 1", "few_shot = 0")], "template has {examples}, which nothing fills"),
        ([("\nText: {passage}\nSchlagzeile:\"", "\"")], "template has no {passage}"),
        ([("{examples}", "")], "template has no {examples}"),
        ([("{examples}", "{exampels}")], "which nothing fills; did you mean {examples}?"),
        ([("Schlagzeile: {query}", "")], "example_template has no {query}"),
        ([("example_template", "exampletemplate")], "did you mean example_template?"),
        ([("temperature = 1", "temprature = 1")], "sampling.temprature: there is no such key; did "
         "you mean sampling.temperature?"),
        ([("temperature = 1", 'temperature = "hot"')], "sampling.temperature = 'hot'; wanted a "),
        ([("temperature = 1", "temperature = -1")], "sampling.temperature = -1; wanted a number"),
        ([("temperature = 1", "temperature = nan")], "sampling.temperature = nan; wanted a number"),
        ([("temperature = 1", "top_p = 0")], "sampling.top_p = 0; wanted a number above 0"),
        ([("temperature = 1", "max_tokens = 0")], "sampling.max_tokens = 0; wanted"),
        ([('stop = ["\\n"]', 'stop = "x"')], "sampling.stop = 'x'; wanted a list of texts"),
        ([('labels = ["Schlagzeile"]', 'labels = [""]')], "answer.labels = ['']; wanted a list"),
        ([('labels = ["Schlagzeile"]', "min_words = 40")], "answer.min_words = 40 is more than"),
        ([('labels = ["Schlagzeile"]', "is_list = 1")], "answer.is_list = 1; wanted true or false"),
        ([("query = \"Zug steckt im Schnee fest\"", "")], "examples[1].query is missing"),
        ([("query = \"Rat stimmt für neues Bad\"", "query = \" \"")], "examples[2].query = ' '"),
        ([("query = \"Rat", "answer = \"Rat")], "examples[2].answer: there is no such key"),
        ([("[sampling]", "[sampling")], "not valid TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(write, changes, message):
    path = write(*changes)
    with pytest.raises(UserError) as error:
        load_prompts([path])
    assert message in str(error.value)
    assert path in str(error.value)


def test_all_that_is_wrong_is_told_at_once(write):
    first = write(("version = 1", "version = 0"), ("temperature", "temprature"), name="a.toml")
    second = write(("{examples}", ""), ('language = "de"', "language = 5"), name="b.toml")
    with pytest.raises(UserError) as error:
        load_prompts([first, "title", second])
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [first] * 2 + [second] * 2


def test_names_that_are_none(write, tmp_path):
    with pytest.raises(UserError, match="did you mean question") as error:
        load_prompts(["qestion"])
    assert ".toml" in str(error.value)
    with pytest.raises(UserError, match="shipped are claim, "):
        load_prompts(["zzz"])
    with pytest.raises(UserError, match="no such file"):
        load_prompts([str(tmp_path / "absent.toml")])
    with pytest.raises(UserError, match="no prompt is named"):
        load_prompts([])


def test_a_type_is_asked_once(write):
    with pytest.raises(UserError, match="title and title both have query_type = 'title'"):
        load_prompts(["title", "title"])
    path = write(("headline_de", "Title"))
    with pytest.raises(UserError, match="both have query_type = 'Title'"):
        load_prompts(["title", path])


def test_shipped_files_lie_beside_the_module():
    import data_prep

    assert SHIPPED.parent.samefile(data_prep.__path__[0])
