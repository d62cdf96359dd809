"""Tests of data_prep/teachers: settings, batches, bad pairs, and parity."""

import numpy as np
import pytest

from data_prep.teachers import Pairs, make_teacher
from data_prep.teachers.parity import check_parity, compare_scores, transformers_form
from data_prep.teachers.prompts import PairPrompt, choose_preset
from data_prep.teachers.token_teacher import INPUT_IDS, TokenTeacher, pad
from ldx.common.errors import UserError
from tests.data_prep.teacher_models import make_bert, random_pairs


class WordTeacher(TokenTeacher):
    """A teacher that scores a pair by its number of words; some texts break it."""

    def __init__(self, batch_tokens, room=10**9):
        super().__init__(batch_tokens)
        self.room, self.shapes = room, []

    def load(self):
        pass

    def encode(self, queries, passages):
        if any("untokenisable" in p for p in passages):
            raise TypeError("cannot be encoded\nat all")
        sizes = [len(f"{q} {p}".split()) for q, p in zip(queries, passages, strict=True)]
        return [{INPUT_IDS: np.full(size, size, np.int32)} for size in sizes]

    def forward(self, batch):
        arrays = pad(batch, {INPUT_IDS: -1}, "left")
        ids = arrays[INPUT_IDS]
        self.shapes.append(ids.shape)
        if ids.size > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if (ids == 13).any():
            raise ValueError("broken pair")
        return np.where((ids == 17).any(1), np.nan, np.where(ids > 0, 1.0, 0.0).sum(1))


def pairs_of(*passages):
    n = len(passages)
    return Pairs([f"q{i}" for i in range(n)], ["one"] * n, [f"d{i}" for i in range(n)], passages)


def words(number):
    return " ".join(["w"] * number)


def test_scores_come_in_the_order_of_the_pairs_and_batches_are_full():
    sizes = np.random.default_rng(0).permutation(40)
    sizes = sizes[(sizes != 12) & (sizes != 16)]
    teacher = WordTeacher(batch_tokens=60)
    scores = teacher.score(pairs_of(*[words(n) for n in sizes]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [1.0 + n for n in sizes]
    assert all(rows * width <= 60 or rows == 1 for rows, width in teacher.shapes)
    assert all(
        (rows + 1) * width > 60 for rows, width in teacher.shapes[:-1]
    )  # one more would not fit
    widths = [width for _, width in teacher.shapes]
    assert widths == sorted(widths, reverse=True)
    assert teacher.problems == []


def test_a_bad_pair_gets_nan_and_the_others_their_scores():
    texts = [words(n) for n in range(30)]  # 12 words and 1 break the batch, 16 and 1 give NaN
    texts[20] = "untokenisable"
    texts[25] = None
    teacher = WordTeacher(batch_tokens=10_000)
    scores = teacher.score(pairs_of(*texts))
    bad = [12, 16, 20, 25]
    assert np.flatnonzero(np.isnan(scores)).tolist() == bad
    good = [i for i in range(30) if i not in bad]
    assert scores[good].tolist() == [1.0 + i for i in good]
    assert [(p.query_id, p.doc_id, p.reason) for p in teacher.problems] == [
        ("q12", "d12", "ValueError: broken pair"),
        ("q16", "d16", "the model's score is nan, no finite number"),
        ("q20", "d20", "TypeError: cannot be encoded"),
        ("q25", "d25", "query or passage is no text"),
    ]
    teacher.score(pairs_of("fine"))
    assert teacher.problems == []


def test_when_memory_runs_out_batches_halve_for_good():
    teacher = WordTeacher(batch_tokens=1000, room=110)
    pairs = pairs_of(*[words(9)] * 100)
    assert (teacher.score(pairs) == 10.0).all()
    assert 55 < teacher.batch_tokens <= 110
    teacher.shapes.clear()
    assert (teacher.score(pairs) == 10.0).all()
    assert max(rows * width for rows, width in teacher.shapes) <= 110


def test_a_pair_that_is_too_much_for_memory_alone_is_set_aside():
    teacher = WordTeacher(batch_tokens=1000, room=50)
    scores = teacher.score(pairs_of(words(9), words(60), words(8)))
    assert np.isnan(scores[1])
    assert scores[[0, 2]].tolist() == [10.0, 9.0]
    assert "out of memory" in teacher.problems[0].reason
    assert teacher.batch_tokens > 10


def test_no_pairs_no_scores():
    assert WordTeacher(100).score(pairs_of()).shape == (0,)


def test_pad_on_either_side():
    batch = [{"input_ids": np.array([5, 6])}, {"input_ids": np.array([7])}]
    left, right = pad(batch, {"input_ids": 9}, "left"), pad(batch, {"input_ids": 9}, "right")
    assert left["input_ids"].tolist() == [[5, 6], [9, 7]]
    assert left["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert right["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert right["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "known are cross_encoder"),
        ({"kind": "crossencoder"}, "prep.teachers.t.kind='crossencoder'"),
        ({"kind": "rank_t5"}, "prep.teachers.t.model is missing"),
        ({"kind": "rank_t5", "model": "x", "max_len": 5}, "did you mean .*max_length"),
        ({"kind": "rank_t5", "model": "no/where/at/all"}, "prep.teachers.t: no/where/at/all: no"),
        ({"kind": "rank_t5", "model": "x", "max_length": 0}, "max_length=0"),
        ({"kind": "rank_t5", "model": "x", "dtype": "float8"}, "dtype='float8'"),
        ({"kind": "rank_t5", "model": "castorini/monot5"}, "pin its revision"),
        ({"kind": "yes_no", "model": "x", "template": "qwen"}, "known are qwen3_reranker"),
        (
            {"kind": "yes_no", "model": "x", "template": ("{query}",)},
            "wanted {query} and {passage}",
        ),
        ({"kind": "yes_no", "model": "x", "template": ("{query}{passage}{",)}, "write {{ for a"),
        (
            {"kind": "yes_no", "model": "x", "template": "bge_gemma", "form": "no"},
            "wanted difference or yes",
        ),
        ({"kind": "cross_encoder", "model": "x", "instruction": "i"}, "no template to put it in"),
        ({"kind": "run_file", "path": "nowhere.tsv"}, "no such file of scores"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        make_teacher("t", settings)


def test_a_folder_that_is_no_ranker(tmp_path):
    import torch
    import transformers

    folder = make_bert(tmp_path / "bert", 1)
    settings = {"kind": "cross_encoder", "model": str(folder), "device": "cpu"}
    with pytest.raises(UserError, match=r"max_length=200: .* positions for 128 tokens"):
        make_teacher("t", settings | {"max_length": 200}).score(pairs_of("x"))
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match=r"lack\n.*classifier"):
        make_teacher("t", settings | {"max_length": 64}).score(pairs_of("x"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge it into its base model"):
        make_teacher("t", settings)
    (folder / "adapter_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json: no such file; make it with"):
        make_teacher("t", settings)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="only safetensors are read"):
        make_teacher("t", settings)


def test_a_model_that_ships_code_is_refused(tmp_path):
    folder = make_bert(tmp_path, 1)
    config = folder / "config.json"
    values = '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}'
    config.write_text(values)
    (folder / "own.py").write_text("raise SystemExit('code of a model was run')")
    with pytest.raises(UserError, match="ships code of its own"):
        make_teacher("t", {"kind": "cross_encoder", "model": str(folder)}).score(pairs_of("x"))


def test_fingerprint_names_what_decides_a_score(tmp_path):
    folder = make_bert(tmp_path, 1)
    base = {"kind": "cross_encoder", "model": str(folder), "max_length": 64}

    def fingerprint(**changes):
        return make_teacher("t", base | changes).fingerprint

    assert fingerprint() == fingerprint(batch_tokens=99, device="cpu")
    others = [
        fingerprint(max_length=65),
        fingerprint(dtype="bfloat16"),
        fingerprint(template="bge_gemma"),
        fingerprint(template="bge_gemma", instruction="another"),
    ]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    others.append(fingerprint())
    assert len({fingerprint(max_length=66), *others}) == len(others) + 1


class Fixed:
    """A teacher whose scores are known."""

    fingerprint = "fixed"

    def __init__(self, scores):
        self.scores = np.array(scores, np.float32)

    def score(self, pairs):
        return self.scores


def test_parity_passes_like_scores_and_refuses_others():
    pairs = random_pairs(50)
    scores = np.random.default_rng(0).normal(0, 5, 50).astype(np.float32)
    parity = check_parity(Fixed(scores), Fixed(scores + 0.001), pairs)
    assert parity.rank_correlation == pytest.approx(1.0)
    assert parity.largest_difference == pytest.approx(0.001, rel=1e-2)
    assert parity.num_pairs == 50

    permuted = scores.copy()
    permuted[[3, 7]] = [scores.max() + 1, scores.min() - 1]
    import scipy.stats

    value = scipy.stats.spearmanr(scores, permuted).statistic
    assert value < 0.99
    with pytest.raises(UserError, match=f"correlation is {value:.4f}") as caught:
        check_parity(Fixed(scores), Fixed(permuted), pairs)
    lines = str(caught.value).splitlines()[1:3]
    assert {line.split(":")[0].strip() for line in lines} == {
        "query q0, passage d3",
        "query q1, passage d7",
    }
    check_parity(Fixed(scores), Fixed(permuted), pairs, least=value - 0.1)


def test_parity_refuses_scores_through_a_sigmoid():
    scores = np.random.default_rng(0).normal(0, 5, 50)
    with pytest.raises(UserError, match="still apply an activation"):
        compare_scores(scores, 1 / (1 + np.exp(-scores)), random_pairs(50))


@pytest.mark.parametrize(
    ("fast", "message"),
    [
        (np.full(50, np.nan), "0 were scored by both"),
        (np.r_[np.nan, np.arange(49)], "1 by one alone"),
        (np.full(50, 2.0), "gives all 50 pairs the score 2.0"),
    ],
)
def test_parity_needs_scores(fast, message):
    with pytest.raises(UserError, match=message):
        compare_scores(np.arange(50.0), fast, random_pairs(50))


def test_parity_says_why_pairs_were_not_scored():
    teacher = WordTeacher(100)
    pairs = pairs_of(*[words(12)] * 20)
    with pytest.raises(UserError, match="query q3, passage d3: ValueError: broken pair"):
        check_parity(Fixed(np.arange(20)), teacher, pairs)


def test_only_engines_have_a_slow_form():
    assert transformers_form("t", {"kind": "cross_encoder", "model": "x"}) is None


def test_what_fingerprints_hash_of_a_prompt_stays():
    """Scores that an earlier version made are found by this text."""
    prompt = PairPrompt(("{query}\n", "{passage}"), bos=True)
    assert repr(prompt) == "Prompt(parts=('{query}\\n', '{passage}'), bos=True, eos=False)"
    preset = choose_preset(prompt.parts)
    assert repr(preset) == (
        "Preset(prompt=Prompt(parts=('{query}\\n', '{passage}'), bos=False, eos=False), "
        "instruction='', yes='yes', no='no', form='difference', max_length=1024)"
    )
