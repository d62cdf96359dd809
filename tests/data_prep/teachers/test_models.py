"""Tests of the transformers teachers, against plain code that scores pairs one by one, unpadded."""

import numpy as np
import pytest
import torch
import transformers

from data_prep.teachers import Pairs, make_teacher
from ldx.common.errors import UserError
from tests.data_prep.teacher_models import (
    make_bert,
    make_gpt2,
    make_language_model,
    make_layerwise,
    make_t5,
    random_pairs,
)

PAIRS = random_pairs(40)
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def one_by_one(score):
    with torch.inference_mode():
        return np.array(
            [float(score(q, p)) for q, p in zip(PAIRS.queries, PAIRS.passages, strict=True)]
        )


def check(settings, expected):
    """Scores are the expected ones, whatever the batches and the order."""
    assert np.ptp(expected) > 0.05, "all pairs score alike: nothing is tested"
    teacher = make_teacher("t", settings | {"batch_tokens": 500})
    scores = teacher.score(PAIRS)
    assert teacher.problems == []
    np.testing.assert_allclose(scores, expected, **TOLERANCE)
    assert teacher.score(PAIRS).tobytes() == scores.tobytes()
    order = np.random.default_rng(1).permutation(len(PAIRS))
    columns = (PAIRS.query_ids, PAIRS.queries, PAIRS.doc_ids, PAIRS.passages)
    shuffled = Pairs(*[[column[i] for i in order] for column in columns])
    alone = make_teacher("t", settings | {"batch_tokens": 1})
    np.testing.assert_allclose(alone.score(shuffled), expected[order], **TOLERANCE)
    return teacher


@pytest.fixture(scope="module")
def berts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("berts")
    return {n: make_bert(folder / str(n), n) for n in (1, 2, 3)}


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_cross_encoder(berts, num_labels):
    folder = berts[num_labels]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()

    def score(query, passage):
        inputs = tokenizer(
            query, passage, truncation="only_second", max_length=48, return_tensors="pt"
        )
        logits = model(**inputs).logits[0]
        return {1: logits[0], 2: logits[-1] - logits[0], 3: logits[-1]}[num_labels]

    settings = {"kind": "cross_encoder", "model": str(folder), "max_length": 48}
    if num_labels == 3:
        with pytest.raises(UserError, match="3 labels; set label_index"):
            make_teacher("t", settings).score(PAIRS)
        with pytest.raises(UserError, match="labels 0 to 2"):
            make_teacher("t", settings | {"label_index": 3}).score(PAIRS)
        settings["label_index"] = 2
    else:
        with pytest.raises(UserError, match="leave label_index out"):
            make_teacher("t", settings | {"label_index": 0}).score(PAIRS)
    check(settings, one_by_one(score))


def test_pairs_that_cannot_be_encoded(berts):
    settings = {"kind": "cross_encoder", "model": str(berts[1]), "max_length": 48}
    teacher = make_teacher("t", settings)
    passages = ["solve the matrix", "a \ud800 b", "solve the matrix", "solve the matrix"]
    queries = ["sum of", "sum of", "sum " * 60, "sum of"]
    scores = teacher.score(Pairs(list("abcd"), queries, list("efgh"), passages))
    assert np.isnan(scores).tolist() == [False, True, True, False]
    assert scores[0] == pytest.approx(scores[3], abs=1e-6)
    assert [(p.query_id, p.doc_id) for p in teacher.problems] == [("b", "f"), ("c", "g")]


def test_lower_precision(berts):
    settings = {"kind": "cross_encoder", "model": str(berts[1]), "max_length": 48}
    exact = make_teacher("t", settings).score(PAIRS)
    rough = make_teacher("t", settings | {"dtype": "bfloat16"}).score(PAIRS)
    assert rough.dtype == np.float32
    assert 1e-4 < np.abs(rough - exact).max() < 0.2
    # The last layer is in float32, so that scores of a list do not tie.
    assert len(set(rough.tolist())) == len(PAIRS)
    assert (torch.tensor(rough).bfloat16().float().numpy() != rough).mean() > 0.9


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return make_t5(tmp_path_factory.mktemp("t5"))


def test_rank_t5(t5):
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    model = transformers.T5ForConditionalGeneration.from_pretrained(t5).eval()
    token = tokenizer.convert_tokens_to_ids("<extra_id_10>")

    def score(query, passage):
        text = f"Query: {query} Document: {passage}"
        inputs = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
        output = model.generate(
            **inputs, max_new_tokens=1, output_scores=True, return_dict_in_generate=True
        )
        return output.scores[0][0, token]

    check({"kind": "rank_t5", "model": str(t5), "max_length": 40}, one_by_one(score))


def test_mono_t5(t5):
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    model = transformers.T5ForConditionalGeneration.from_pretrained(t5).eval()
    words = tokenizer.convert_tokens_to_ids(["▁true", "▁false"])
    assert tokenizer.unk_token_id not in words

    def score(query, passage):
        # Each word of these texts is a token; Query:, Document:, Relevant: and </s> are four more.
        cut = passage.split()[: 40 - 4 - len(query.split())]
        text = f"Query: {query} Document: {' '.join(cut)} Relevant:"
        inputs = tokenizer(text, return_tensors="pt")
        assert inputs["input_ids"].shape[1] <= 40
        start = torch.tensor([[model.config.decoder_start_token_id]])
        logits = model(**inputs, decoder_input_ids=start).logits[0, 0, words]
        return torch.log(torch.softmax(logits, dim=0))[0]

    check({"kind": "mono_t5", "model": str(t5), "max_length": 40}, one_by_one(score))
    with pytest.raises(UserError, match="not one token"):
        make_teacher("t", {"kind": "mono_t5", "model": str(t5), "true_token": "vrai"}).score(PAIRS)


def test_qwen3_reranker(tmp_path):
    """Scores equal those of the model card's code at batch size 1."""
    folder = make_language_model(tmp_path, "Qwen3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    no, yes = tokenizer.convert_tokens_to_ids("no"), tokenizer.convert_tokens_to_ids("yes")
    prefix = tokenizer.encode(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n",
        add_special_tokens=False,
    )
    suffix = tokenizer.encode(
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False
    )

    def text(query, passage):
        instruction = "Given a web search query, retrieve relevant passages that answer the query"
        return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}"

    # About 20 tokens are left of every passage.
    room = max(len(tokenizer(text(query, ""))["input_ids"]) for query in PAIRS.queries) + 20
    max_length = len(prefix) + room + len(suffix)

    def score(query, passage):
        ids = tokenizer(text(query, passage), truncation="longest_first", max_length=room)[
            "input_ids"
        ]
        logits = model(torch.tensor([prefix + ids + suffix])).logits[:, -1, :]
        both = torch.stack([logits[:, no], logits[:, yes]], dim=1)
        public = torch.nn.functional.log_softmax(both.double(), dim=1)[:, 1].exp()
        return torch.logit(public)

    settings = {"kind": "yes_no", "model": str(folder), "template": "qwen3_reranker"}
    check(settings | {"max_length": max_length}, one_by_one(score))


@pytest.mark.parametrize(("family", "form"), [("Gemma", None), ("Llama", "difference")])
def test_bge_gemma(tmp_path, family, form):
    """Scores equal those of the model card's code, whose length leaves out the prompt."""
    folder = make_language_model(tmp_path, family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the "
        "query by providing a prediction of either 'Yes' or 'No'."
    )

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def score(query, passage):
        first = [tokenizer.bos_token_id, *tokens(f"A: {query}")]
        second = tokens("\n") + tokens(f"B: {passage}")
        cut = second[: 120 - len(first)]
        ids = first + cut + tokens("\n") + tokens(prompt)
        logits = model(torch.tensor([ids])).logits[0, -1]
        yes, no = (logits[tokenizer(word)["input_ids"][0]] for word in ("Yes", "No"))
        return yes - no if form == "difference" else yes

    settings = {"kind": "yes_no", "model": str(folder), "template": "bge_gemma", "form": form}
    max_length = 120 + len(tokens("\n")) + len(tokens(prompt))
    check(settings | {"max_length": max_length}, one_by_one(score))


def test_own_template_and_words(tmp_path):
    """Padding does not move the positions of a model that has learned them."""
    folder = make_gpt2(tmp_path)
    settings = {
        "kind": "yes_no",
        "model": str(folder),
        "template": ("Q {query} {{braces}}", " P {passage}", " R"),
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def score(query, passage):
        parts = (f"Q {query} {{braces}}", f" P {passage}", " R")
        ids = [i for part in parts for i in tokenizer(part)["input_ids"]]
        logits = model(torch.tensor([ids])).logits[0, -1]
        return logits[tokenizer("yes")["input_ids"][0]] - logits[tokenizer("no")["input_ids"][0]]

    check(settings, one_by_one(score))
    with pytest.raises(UserError, match="'perhaps' is not one token"):
        make_teacher("t", settings | {"no": "perhaps"}).score(PAIRS)
    teacher = make_teacher("t", settings | {"max_length": 30})
    scores = teacher.score(Pairs(["a", "b"], ["sum", "sum " * 40], ["c", "d"], ["air " * 50] * 2))
    assert np.isnan(scores).tolist() == [False, True]
    assert "tokens without the passage, max_length is 30" in teacher.problems[0].reason


def test_layerwise(tmp_path):
    """Scores equal those from the whole model's hidden states, each pair unpadded."""
    folder = make_layerwise(tmp_path)
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.Gemma2Config(
        **{
            key: getattr(transformers.Gemma2Config(), key)
            for key in ("attn_logit_softcapping", "final_logit_softcapping")
        },
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=16,
        pad_token_id=0,
    )
    model = transformers.Gemma2Model(config).eval()
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    model.load_state_dict(weights)

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def score_at(layer, head):
        def score(query, passage):
            ids = [tokenizer.bos_token_id, *tokens(f"A: {query}"), *tokens("\n")]
            ids += [*tokens(f"B: {passage}"), *tokens("\n")]
            ids += tokens("Predict whether passage B contains an answer to query A.")
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            last = model.norm(states[layer])[0, -1]
            logit = last @ tensors[f"lm_head.{head}.linear_head.weight"][0]
            return 30 * torch.tanh(logit / 30)

        return score

    settings = {"kind": "layerwise", "model": str(folder), "max_length": 500}
    check(settings | {"layer": 3}, one_by_one(score_at(3, 0)))
    check(settings | {"layer": 4, "head": 2}, one_by_one(score_at(4, 2)))
    for wrong, message in (
        ({"layer": 28}, "heads from layer 2 to 5"),
        ({"head": 4}, "heads 0 to 3"),
    ):
        with pytest.raises(UserError, match=message):
            make_teacher("t", settings | {"layer": 3} | wrong)


def test_layerwise_wants_its_own_form(berts):
    with pytest.raises(UserError, match="the only layer-wise one"):
        make_teacher("t", {"kind": "layerwise", "model": str(berts[1])})
