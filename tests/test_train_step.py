"""One step: equal to the plain way, on any number of devices, and to the reference's trajectory."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize
from ldx.data.plan import BatchPlanner
from ldx.data.schema import ListRecord
from ldx.embedder import Embedder
from ldx.errors import UserError
from ldx.models.pooling import normalize
from ldx.objective import make_objective
from ldx.optim import OptimConfig, make_optimizer
from ldx.sharding import make_mesh
from ldx.train_step import TrainStep, init_state

VOCAB, DIM = 50, 8
CONFIG = {
    "listwise_kl": {"weight": 1.0, "student_temperature": 0.1, "teacher_temperature": 0.3},
    "info_nce": {"weight": 0.5, "temperature": 0.1, "false_negative_ratio": 0.6},
}


class WordTokenizer:
    """Words of digits are their own ids."""

    prefix, suffix, pad_id = (1,), (2,), 0

    def encode(self, texts):
        return [np.array([int(word) for word in text.split()], np.int32) for text in texts]


def make_texts(rng, num_texts):
    lengths = rng.integers(1, 20, size=num_texts)
    return [" ".join(str(t) for t in rng.integers(3, VOCAB, size=n)) for n in lengths]


def make_records(rng, num_lists=7, num_passages=12, list_size=5):
    records = []
    queries = make_texts(rng, num_lists)
    queries[1] = queries[0]
    for i, query in enumerate(queries):
        size = list_size if i % 2 else list_size - 2
        records.append(
            ListRecord(
                list_id=f"list-{i}",
                query_id=str(i),
                query=query,
                query_type="",
                source="",
                source_row=-1,
                rows=rng.permutation(num_passages)[:size],
                labels=np.full(size, -1, np.int32),
                teacher_scores=-np.sort(-rng.uniform(size=size)).astype(np.float32),
                raw_scores=np.zeros(0, np.float32),
                order_key=0,
            )
        )
    return records


def embed(params, token_ids, mask):
    hidden = jnp.tanh(params["table"][token_ids] @ params["w"])
    total = jnp.sum(hidden * mask[..., None], axis=1)
    return normalize(total / mask.sum(axis=1, keepdims=True))


def make_params(rng):
    return {
        "table": rng.normal(size=(VOCAB, DIM)).astype(np.float32),
        "w": rng.normal(size=(DIM, DIM)).astype(np.float32),
    }


def make_planner(passages, num_devices, num_queries=8):
    tokenizer = WordTokenizer()
    return BatchPlanner(
        tokenizer,
        tokenizer.encode(passages),
        query_prompt="",
        query_max_length=16,
        passage_max_length=20,
        shapes=Shapes.make(20, 64, num_devices=num_devices, lengths=(8, 20)),
        size=BatchSize(num_queries, 6, 30),
        num_devices=num_devices,
    )


def make_step(planner, num_devices, optimizer):
    embedder = Embedder(embed, make_mesh(num_devices))
    return TrainStep(embedder, make_objective(CONFIG), optimizer, buffer_rows=planner.buffer_rows)


def plain_loss(params, records, passages, planner):
    """Every slot of every list embedded on its own, and the losses over slots."""
    tokenizer = WordTokenizer()

    def embed_text(text, limit):
        ids = np.concatenate([[1], tokenizer.encode([text])[0][: limit - 2], [2]])
        return embed(params, ids[None], np.ones((1, len(ids)), bool))[0]

    queries = jnp.stack([embed_text(r.query, 16) for r in records])
    slots = [[embed_text(passages[row], 20) for row in r.rows] for r in records]
    kl, contrastive = [], []
    for i, record in enumerate(records):
        scores = jnp.stack([queries[i] @ p for p in slots[i]])
        teacher = jax.nn.log_softmax(record.teacher_scores / 0.3)
        student = jax.nn.log_softmax(scores / 0.1)
        kl.append(jnp.sum(jnp.exp(teacher) * (teacher - student)))
        own = record.teacher_scores > 0.6 * record.teacher_scores[0]
        dropped = {record.rows[0], *record.rows[own]}
        others = [
            p
            for other, embedded in zip(records, slots, strict=True)
            for row, p in zip(other.rows, embedded, strict=True)
            if row not in dropped
        ]
        logits = jnp.stack([queries[i] @ p for p in [slots[i][0], *others]]) / 0.1
        contrastive.append(jax.nn.logsumexp(logits) - logits[0])
    return jnp.mean(jnp.stack(kl)) + 0.5 * jnp.mean(jnp.stack(contrastive))


@pytest.mark.parametrize("num_devices", [1, 8])
def test_equals_the_plain_way(num_devices):
    """SGD with rate 1 turns the step's gradient into a difference of parameters."""
    rng = np.random.default_rng(0)
    passages, records, params = make_texts(rng, 12), make_records(rng), make_params(rng)
    planner = make_planner(passages, num_devices)
    plan = planner(records)
    assert len(plan.token_batches) > 1
    step = make_step(planner, num_devices, optax.sgd(1.0))
    state, metrics = step(init_state(params, optax.sgd(1.0)), plan)
    loss, gradient = jax.value_and_grad(plain_loss)(params, records, passages, planner)
    np.testing.assert_allclose(metrics["total"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    for name, before in params.items():
        np.testing.assert_allclose(before - state.params[name], gradient[name], atol=2e-5)
    assert state.step == 1


def test_a_stop_leaves_the_state_as_it_was():
    rng = np.random.default_rng(0)
    passages, records, params = make_texts(rng, 12), make_records(rng), make_params(rng)
    planner = make_planner(passages, 1)
    step = make_step(planner, 1, optax.sgd(1.0))
    state = init_state(params, optax.sgd(1.0))
    plan = planner(records)
    calls = []

    def stop_late():
        calls.append(1)
        if len(calls) == 2 * len(plan.token_batches):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(state, plan, stop_late)
    np.testing.assert_array_equal(state.params["w"], params["w"])
    again, _ = step(state, plan)
    assert again.step == 1


def test_a_loss_that_is_not_finite_names_its_lists():
    rng = np.random.default_rng(0)
    passages, params = make_texts(rng, 12), make_params(rng)
    records = make_records(rng)
    broken = int(records[3].query.split()[0])
    params["table"][broken] = np.nan
    planner = make_planner(passages, 1)
    step = make_step(planner, 1, optax.sgd(1.0))
    state = init_state(params, optax.sgd(1.0))
    with pytest.raises(UserError, match="not finite") as error:
        step(state, planner(records))
    texts = {r.list_id: [r.query, *(passages[row] for row in r.rows)] for r in records}
    for name, words in texts.items():
        is_bad = any(str(broken) in text.split()[:18] for text in words)
        assert (name in str(error.value)) == is_bad
    np.testing.assert_array_equal(state.params["w"], params["w"])


def test_a_plan_embeds_each_text_once():
    rng = np.random.default_rng(0)
    records = make_records(rng)
    plan = make_planner(make_texts(rng, 12), 1)(records)
    rows = {int(row) for r in records for row in r.rows}
    assert plan.num_distinct_passages == len(rows)
    assert plan.num_slots == sum(len(r.rows) for r in records)
    assert plan.query_position[0] == plan.query_position[1]
    assert not plan.lists.where[len(records) :].any()


# ---- the reference's trajectory


class GoldenPassages:
    """The passages of one golden step as token ids."""

    def __init__(self, tokenizer, texts):
        self.ids = tokenizer.encode(texts)

    def __getitem__(self, row):
        return self.ids[row]


@pytest.mark.golden
def test_golden_trajectory(golden_dir, minilm):
    """Four AdamW steps of CADET's trainer on real text, through micro-batches and embed-once."""
    from ldx.eval.encode import Encoder
    from ldx.models.student import load_student

    golden = json.loads(gzip.decompress((golden_dir / "trajectory.json.gz").read_bytes()))
    arrays = np.load(golden_dir / "trajectory.npz")
    student = load_student(
        str(minilm),
        query_max_length=golden["query_max_length"],
        passage_max_length=golden["passage_max_length"],
    )
    mesh = make_mesh(1)
    encoder = Encoder(student, mesh=mesh, microbatch_tokens=2048)
    probes = golden["probe_texts"]
    before, after = arrays["embeddings_before"], arrays["embeddings_after"]
    np.testing.assert_allclose(
        encoder.encode(student.params, probes, kind="passage"), before, atol=1e-5
    )
    objective = make_objective(
        {
            "listwise_kl": {
                "weight": 1.0,
                "student_temperature": golden["student_temperature"],
                "teacher_temperature": golden["teacher_temperature"],
            },
            "info_nce": {
                "weight": golden["contrastive_weight"],
                "temperature": golden["contrastive_temperature"],
                "false_negative_ratio": golden["false_negative_ratio"],
            },
        }
    )
    settings = golden["optimizer"]
    names = ("learning_rate", "weight_decay", "b1", "b2", "eps", "schedule")
    config = OptimConfig(
        **{name: settings[name] for name in names},
        clip_norm=settings["clip_global_norm"],
        warmup_steps=0,
    )
    optimizer = make_optimizer(config, len(golden["steps"]))
    state, step = init_state(student.params, optimizer), None
    for lists, expected, num_distinct in zip(
        golden["steps"], golden["losses"], golden["unique_passages_per_step"], strict=True
    ):
        records, texts = golden_records(lists)
        planner = BatchPlanner(
            student.tokenizer,
            GoldenPassages(student.tokenizer, texts),
            query_prompt="",
            query_max_length=golden["query_max_length"],
            passage_max_length=golden["passage_max_length"],
            shapes=encoder.shapes,
            size=BatchSize(16, 6, 96),
            num_devices=1,
        )
        if step is None:
            rows = planner.buffer_rows
            step = TrainStep(encoder.embedder, objective, optimizer, buffer_rows=rows)
        plan = planner(records)
        assert plan.num_distinct_passages == num_distinct
        assert len(plan.token_batches) > 1
        state, metrics = step(state, plan)
        np.testing.assert_allclose(metrics["listwise_kl"], expected["listwise"], rtol=1e-3)
        np.testing.assert_allclose(metrics["info_nce"], expected["contrastive"], rtol=1e-3)
    final = encoder.encode(state.params, probes, kind="passage")
    np.testing.assert_allclose(final, after, atol=2e-4)


def golden_records(lists):
    row_of, texts, records = {}, [], []
    for i, item in enumerate(lists):
        for name, text in zip(item["doc_ids"], item["passages"], strict=True):
            if name not in row_of:
                row_of[name] = len(texts)
                texts.append(text)
        size = len(item["doc_ids"])
        records.append(
            ListRecord(
                list_id=str(i),
                query_id=str(i),
                query=item["query"],
                query_type="",
                source="",
                source_row=-1,
                rows=np.array([row_of[name] for name in item["doc_ids"]]),
                labels=np.full(size, -1, np.int32),
                teacher_scores=np.array(item["teacher_scores"], np.float32),
                raw_scores=np.zeros(0, np.float32),
                order_key=0,
            )
        )
    return records, texts
