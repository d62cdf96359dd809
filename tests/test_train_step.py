"""One step: equal to the plain way, on any number of devices, and to the reference's trajectory."""

import dataclasses
import functools
import gzip
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from ldx.checkpoint import Checkpoints, Progress
from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize, ListTable, take_lists
from ldx.data.plan import BatchPlanner, Devices
from ldx.data.schema import ListRecord
from ldx.data.tokens import TokensInMemory
from ldx.embedder import Embedder
from ldx.errors import UserError
from ldx.models.pooling import normalize
from ldx.models.tokenizer import pad_tokens
from ldx.objective import make_objective
from ldx.optim import OptimConfig, make_optimizer
from ldx.sharding import make_mesh
from ldx.train_step import TrainStep
from tests.helpers import count_compilations

VOCAB, DIM = 50, 8
CONFIG = {
    "listwise_kl": {"weight": 1.0, "student_temperature": 0.1, "teacher_temperature": 0.3},
    "info_nce": {"weight": 0.5, "temperature": 0.1, "false_negative_ratio": 0.6},
}
PLENTY = 2**30  # bytes of activations, more than any batch here has


class Special:
    """The special tokens of texts whose words are numbers."""

    prefix, suffix, pad_id = (1,), (2,), 0


def make_ids(rng, num_texts):
    """Token ids of random texts of 1 to 19 words."""
    lengths = rng.integers(1, 20, size=num_texts)
    return [rng.integers(3, VOCAB, size=n).astype(np.int32) for n in lengths]


@dataclasses.dataclass
class Problem:
    """Passages, queries and lists, random."""

    passages: list
    queries: list
    records: list
    params: dict

    @classmethod
    def make(cls, seed=0, *, num_lists=7, num_passages=12, list_size=5, ties=False, labels=False):
        rng = np.random.default_rng(seed)
        passages, queries = make_ids(rng, num_passages), make_ids(rng, num_lists)
        records = []
        for i in range(num_lists):
            size = int(rng.integers(1, list_size + 1))
            rows = rng.integers(0, num_passages, size=size)  # a passage may stand there twice
            scores = rng.choice([0.2, 0.6, 1.0], size=size) if ties else rng.uniform(size=size)
            grades = rng.integers(-1, 2, size=size) if labels else np.full(size, -1)
            records.append(make_record(i, str(i if i != 1 else 0), rows, scores, grades))
        params = {
            "table": rng.normal(size=(VOCAB, DIM)),
            "w": rng.normal(size=(DIM, DIM)),
        }
        return cls(passages, queries, records, params)

    def params_as(self, dtype):
        return {name: value.astype(dtype) for name, value in self.params.items()}

    def table(self):
        texts = {str(i): i for i in range(len(self.queries))}
        return ListTable.read(self.records, texts)


def make_record(i, query, rows, scores, labels):
    return ListRecord(
        list_id=f"list-{i}",
        query_id=str(i),
        query=query,
        query_type="",
        source="",
        source_row=-1,
        rows=rows,
        labels=labels.astype(np.int32),
        teacher_scores=-np.sort(-scores).astype(np.float32),
        raw_scores=np.zeros(0, np.float32),
        order_key=0,
    )


def embed(params, token_ids, mask):
    hidden = jnp.tanh(params["table"][token_ids] @ params["w"])
    total = jnp.sum(hidden * mask[..., None], axis=1)
    return normalize(total / mask.sum(axis=1, keepdims=True))


def make_planner(problem, num_devices=1, num_queries=8, local=None):
    return BatchPlanner(
        TokensInMemory(problem.passages),
        TokensInMemory(problem.queries),
        Special(),
        query_max_length=16,
        passage_max_length=20,
        shapes=Shapes.make(20, 64, num_devices=num_devices, lengths=(8, 20)),
        size=BatchSize(num_queries, 6, 30),
        devices=Devices(num_devices, tuple(range(num_devices)) if local is None else local),
    )


def make_plan(problem, planner):
    return planner(problem.table(), np.arange(len(problem.records)))


def make_step(planner, num_devices, optimizer, *, fsdp=1, activation_bytes=0):
    embedder = Embedder(embed, make_mesh(num_devices, fsdp=fsdp))
    return TrainStep(
        embedder,
        make_objective(CONFIG),
        optimizer,
        buffer_rows=planner.buffer_rows,
        activation_bytes=activation_bytes,
    )


@functools.lru_cache
def sgd_step(buffer_rows, num_devices, *, fsdp=1, activation_bytes=0):
    embedder = Embedder(embed, make_mesh(num_devices, fsdp=fsdp))
    return TrainStep(
        embedder,
        make_objective(CONFIG),
        optax.sgd(1.0),
        buffer_rows=buffer_rows,
        activation_bytes=activation_bytes,
    )


def plain_arrays(problem, num_lists=8, list_size=6):
    """Every slot of every list as a text of its own, padded; and what a query's negatives are.

    Written list by list, so that it shares nothing with what is tested.
    """

    def tokens(ids, limit):
        text = [1, *ids[: limit - 2], 2]
        return text + [0] * (20 - len(text))

    shape = (num_lists, list_size)
    queries = np.tile(np.array(tokens([], 20), np.int32), (num_lists, 1))
    slots = np.tile(np.array(tokens([], 20), np.int32), (*shape, 1))
    teacher, is_slot = np.zeros(shape, np.float32), np.zeros(shape, bool)
    negative = np.zeros((num_lists, *shape), bool)
    for i, record in enumerate(problem.records):
        queries[i] = tokens(problem.queries[int(record.query)], 16)
        for j, row in enumerate(record.rows):
            slots[i, j] = tokens(problem.passages[row], 20)
        teacher[i, : len(record.rows)] = record.teacher_scores
        is_slot[i, : len(record.rows)] = True
        relevant = record.teacher_scores > np.float32(0.6) * record.teacher_scores[0]
        dropped = {record.rows[0], *record.rows[relevant | (record.labels > 0)]}
        for k, other in enumerate(problem.records):
            for j, row in enumerate(other.rows):
                negative[i, k, j] = row not in dropped
    return queries, slots, teacher, is_slot, negative


@jax.jit
def plain_loss(params, queries, slots, teacher, is_slot, negative):
    """Every slot embedded on its own, in one micro-batch, and the losses over slots."""
    q = embed(params, queries, queries != 0)
    p = embed(params, slots.reshape(-1, 20), slots.reshape(-1, 20) != 0)
    p = p.reshape(*slots.shape[:2], -1)
    teacher = jax.nn.log_softmax(jnp.where(is_slot, teacher.astype(q.dtype) / 0.3, -1e9), axis=1)
    student = jnp.einsum("qd,qld->ql", q, p) / 0.1
    student = jax.nn.log_softmax(jnp.where(is_slot, student, -1e9), axis=1)
    kl = jnp.sum(jnp.where(is_slot, jnp.exp(teacher) * (teacher - student), 0), axis=1)
    logits = jnp.einsum("qd,kld->qkl", q, p) / 0.1
    own = jnp.einsum("qd,qd->q", q, p[:, 0]) / 0.1
    others = jnp.where(negative, logits, -1e9).reshape(len(q), -1)
    together = jnp.concatenate([own[:, None], others], axis=1)
    contrastive = jax.nn.logsumexp(together, axis=1) - own
    return jnp.mean(kl + 0.5 * contrastive, where=is_slot[:, 0])


def check_equals_plain(problem, dtype, tolerance, **settings):
    """SGD with rate 1 turns the step's gradient into a difference of parameters."""
    num_devices = settings.pop("num_devices", 1)
    params, planner = problem.params_as(dtype), make_planner(problem, num_devices)
    step = sgd_step(planner.buffer_rows, num_devices, **settings)
    state, result = step(step.init(params), make_plan(problem, planner))
    metrics = result.metrics()
    loss, gradient = jax.value_and_grad(plain_loss)(params, *plain_arrays(problem))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
    np.testing.assert_allclose(metrics["total"], loss, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=tolerance, atol=tolerance)
    ours = {name: value - np.asarray(state.params[name]) for name, value in params.items()}
    difference = np.sqrt(sum(np.sum(np.square(ours[n] - gradient[n])) for n in ours))
    assert difference <= tolerance * max(norm, 1.0)
    assert state.step == 1


@pytest.mark.parametrize("activation_bytes", [0, 10_000, PLENTY], ids=["none", "some", "all"])
@pytest.mark.parametrize(("num_devices", "fsdp"), [(1, 1), (8, 1), (8, 2)])
def test_equals_the_plain_way(num_devices, fsdp, activation_bytes):
    """Whatever is kept of the first pass, on any devices, however the state is split."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    settings = {"num_devices": num_devices, "fsdp": fsdp, "activation_bytes": activation_bytes}
    check_equals_plain(problem, np.float32, 2e-5, **settings)


drawn_problems = st.builds(
    Problem.make,
    st.integers(0, 2**32 - 1),
    num_lists=st.integers(1, 8),
    num_passages=st.integers(1, 20),  # few: duplicates in a list, positives that are negatives
    list_size=st.integers(1, 6),
    ties=st.booleans(),
    labels=st.booleans(),
)


@hypothesis.settings(max_examples=25)
@hypothesis.given(drawn_problems, st.sampled_from([0, 6_000, PLENTY]))
def test_any_batch_equals_the_plain_way_in_float64(problem, activation_bytes):
    with jax.enable_x64(True):
        check_equals_plain(problem, np.float64, 1e-9, activation_bytes=activation_bytes)


@hypothesis.settings(max_examples=10)
@hypothesis.given(drawn_problems)
def test_any_batch_equals_the_plain_way_in_float32(problem):
    check_equals_plain(problem, np.float32, 1e-4)


@pytest.mark.parametrize("activation_bytes", [0, PLENTY], ids=["computed again", "kept"])
def test_a_real_bert_in_float64(tiny_bert, activation_bytes):
    """The gradient of BERT through micro-batches of several lengths equals that of one program."""
    from ldx.models.student import load_student

    student = load_student(tiny_bert, query_max_length=16, passage_max_length=20)
    problem = Problem.make(4, num_lists=8, num_passages=12)
    planner = make_planner(problem)
    plan = make_plan(problem, planner)
    objective = make_objective(CONFIG)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), student.params)
        step = TrainStep(
            Embedder(student.embed, make_mesh(1)),
            objective,
            optax.sgd(1.0),
            buffer_rows=planner.buffer_rows,
            activation_bytes=activation_bytes,
        )
        state, result = step(step.init(params), plan)

        def loss(params):
            texts = [*problem.queries, *problem.passages]
            token_ids, mask = pad_tokens(
                [ids[:14] if i < 8 else ids[:18] for i, ids in enumerate(texts)],
                Special(), max_length=20, padded_length=20, num_rows=len(texts),
            )  # fmt: skip
            embeddings = student.embed(params, token_ids, mask)
            table = problem.table()
            lists, rows = take_lists(table, np.arange(8), planner.size)
            passages = jnp.zeros((30, 32)).at[: len(rows)].set(embeddings[8 + rows])
            return objective(embeddings[table.query], passages, lists)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        ours = jax.tree.map(lambda before, after: before - np.asarray(after), params, state.params)
        norm = float(optax.tree.norm(gradient))
        assert abs(result.metrics()["total"] - value) < 1e-9
        differences = jax.tree.map(lambda a, b: a - b, ours, gradient)
        assert float(optax.tree.norm(differences)) < 1e-9 * norm


def test_a_stop_leaves_the_state_as_it_was():
    problem = Problem.make()
    planner = make_planner(problem)
    step = make_step(planner, 1, optax.sgd(1.0))
    state = step.init(problem.params_as(np.float32))
    plan = make_plan(problem, planner)
    calls = []

    def stop_late():
        calls.append(1)
        if len(calls) == 2 * len(plan.token_batches):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(state, plan, stop_late)
    np.testing.assert_array_equal(state.params["w"], problem.params_as(np.float32)["w"])
    again, _ = step(state, plan)
    assert again.step == 1


def test_a_loss_that_is_not_finite_names_its_lists_and_changes_nothing():
    problem = Problem.make()
    broken = int(problem.queries[3][0])
    params = problem.params_as(np.float32)
    params["table"][broken] = np.nan
    planner = make_planner(problem)
    step = make_step(planner, 1, optax.adam(1.0))
    state, result = step(step.init(params), make_plan(problem, planner))
    with pytest.raises(UserError, match="not finite") as error:
        result.metrics()
    for record in problem.records:
        texts = [problem.queries[int(record.query)][:14]]
        texts += [problem.passages[row][:18] for row in record.rows]
        is_bad = any(broken in text for text in texts)
        assert (record.list_id in str(error.value)) == is_bad
    np.testing.assert_array_equal(state.params["w"], params["w"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))


def test_a_plan_embeds_each_text_once():
    problem = Problem.make()
    plan = make_plan(problem, make_planner(problem))
    rows = {int(row) for r in problem.records for row in r.rows}
    assert plan.num_distinct_passages == len(rows)
    assert plan.num_slots == sum(len(r.rows) for r in problem.records)
    assert plan.query_position[0] == plan.query_position[1]
    assert not plan.lists.where[len(problem.records) :].any()
    assert len(plan.token_batches) > 1


class CountingTokens(TokensInMemory):
    """Notes which rows are read."""

    def __init__(self, ids):
        super().__init__(ids)
        self.read = []

    def __getitem__(self, row):
        self.read.append(int(row))
        return super().__getitem__(row)


def test_every_process_makes_the_same_plan_and_reads_only_what_it_embeds():
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    whole = make_plan(problem, make_planner(problem, 8))
    parts, rows_read = [], []
    for local in ((0, 1, 2, 3), (4, 5), (6, 7)):
        passages = CountingTokens(problem.passages)
        planner = make_planner(problem, 8, local=local)
        planner._passages = passages
        parts.append(make_plan(problem, planner))
        rows_read += passages.read
    for part in parts:
        np.testing.assert_array_equal(part.digest(), whole.digest())
    for i, batch in enumerate(whole.token_batches):
        joined = np.concatenate([part.token_batches[i].token_ids for part in parts])
        np.testing.assert_array_equal(joined, batch.token_ids)
    assert sorted(rows_read) == sorted({int(row) for r in problem.records for row in r.rows})


def test_plans_of_different_batches_have_different_digests():
    problem = Problem.make()
    planner, table = make_planner(problem), problem.table()
    digests = [planner(table, np.array(n)).digest().tolist() for n in ([0, 1], [1, 0], [0, 2])]
    assert digests[0] != digests[1] != digests[2] != digests[0]
    # The same structure over other passages.
    moved = dataclasses.replace(table, rows=(table.rows + 1) % len(problem.passages))
    assert planner(moved, np.array([0])).digest().tolist() != digests[0]


# ---- many devices


def train_steps(num_devices, fsdp, optimizer, num_steps=5):
    """Losses of five steps, the state after them, and the embeddings of the last batch's texts."""
    problem = Problem.make(3, num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, num_devices)
    step = make_step(planner, num_devices, optimizer, fsdp=fsdp, activation_bytes=20_000)
    state, plan, losses = step.init(problem.params_as(np.float32)), None, []
    for number in range(num_steps):
        lists = np.random.default_rng(number).permutation(len(problem.records))[:6]
        plan = planner(problem.table(), lists)
        state, result = step(state, plan)
        losses.append(result.metrics()["total"])
    assert plan is not None
    texts = np.concatenate([plan.query_position[:6], plan.passage_position])
    return losses, state, np.asarray(result.embeddings)[texts]


@pytest.mark.parametrize(("num_devices", "fsdp"), [(2, 1), (4, 1), (8, 1), (2, 2), (8, 4)])
def test_devices_do_not_change_the_result(num_devices, fsdp):
    expected, alone, embeddings = train_steps(1, 1, optax.sgd(0.1))
    losses, state, theirs = train_steps(num_devices, fsdp, optax.sgd(0.1))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(theirs, embeddings, atol=1e-5)
    for name, value in alone.params.items():
        np.testing.assert_allclose(state.params[name], value, atol=1e-5)


def bytes_per_device(tree):
    used = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            used[shard.device] = used.get(shard.device, 0) + shard.data.nbytes
    return used


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_fsdp_splits_the_state(fsdp):
    _, state, _ = train_steps(4, fsdp, optax.adamw(1e-3), num_steps=2)
    arrays = state.params, state.opt_state
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    used = bytes_per_device(arrays)
    assert len(used) == 4
    for num_bytes in used.values():
        assert num_bytes < whole / fsdp + 100  # Adam's step counts are whole everywhere


def test_a_checkpoint_is_restored_on_another_number_of_devices(tmp_path):
    _, state, _ = train_steps(8, 4, optax.adamw(1e-3), num_steps=2)
    progress = Progress(step=2, evaluated_step=2)
    Checkpoints(tmp_path).save(state, progress)
    problem = Problem.make(3)
    for num_devices, fsdp in ((2, 2), (1, 1)):
        planner = make_planner(problem, num_devices)
        step = make_step(planner, num_devices, optax.adamw(1e-3), fsdp=fsdp)
        like = step.init(problem.params_as(np.float32))
        restored = Checkpoints(tmp_path).restore(like, progress)
        for theirs, ours in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
            np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))
        assert len(bytes_per_device(restored.params)) == num_devices
        again, result = step(restored, make_plan(problem, planner))
        assert again.step == 3
        assert np.isfinite(result.metrics()["total"])


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(lowered):
    """How often each kind of collective stands in the compiled program."""
    text = lowered.compile().as_text()
    return {name: found for name in COLLECTIVES if (found := text.count(f" {name}("))}


@pytest.mark.parametrize("fsdp", [1, 2])
def test_gradients_cross_devices_once_a_step(fsdp):
    """The programs that run for every micro-batch have no collective; the update has all."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, 8)
    step = make_step(planner, 8, optax.adamw(1e-3), fsdp=fsdp, activation_bytes=PLENTY)
    state, plan = step.init(problem.params_as(np.float32)), make_plan(problem, planner)
    with jax.set_mesh(step._mesh):
        params, (buffer, gradients) = step._gather_params(state), step._zeros(state.params)
        tokens = step._put_tokens(plan.token_batches[0])
        start = step._put_start(plan.token_batches[0])
        embeddings, kept = step._embed_and_keep(params, *tokens)
        assert not collectives(step._embedder._forward.lower(params, *tokens))
        assert not collectives(step._embed_and_keep.lower(params, *tokens))
        assert not collectives(step._place.lower(buffer, embeddings, start))
        backprop = step._backprop.lower(params, gradients, buffer, *tokens, start)
        assert not collectives(backprop)
        again = step._backprop_kept.lower(params, gradients, buffer, kept, start)
        assert not collectives(again)
        losses = {"total": jnp.zeros(())}
        update = collectives(step._update.lower(state, gradients, losses))
    num_params = len(problem.params)
    if fsdp == 1:
        assert set(update) == {"all-reduce"}
        assert 1 <= update["all-reduce"] <= num_params
    else:
        assert update["reduce-scatter"] <= num_params
        assert "all-gather" not in update


def test_nothing_is_compiled_after_the_start():
    """Whatever the batches hold: lists of any length, any number of them, few or many texts."""
    problem = Problem.make(num_lists=8, num_passages=24, list_size=6)
    planner = make_planner(problem, 2)
    step = make_step(planner, 2, optax.adamw(1e-3), activation_bytes=6_000)
    state = step.init(problem.params_as(np.float32))
    step.compile(state, planner.shapes, planner.size)
    compiled = []
    with count_compilations(compiled):
        rng = np.random.default_rng(0)
        for _ in range(20):
            numbers = rng.permutation(8)[: rng.integers(1, 9)]
            state, result = step(state, planner(problem.table(), numbers))
            result.metrics()
    assert not compiled


# ---- the reference's trajectory


@pytest.mark.golden
@pytest.mark.parametrize("activation_bytes", [0, PLENTY], ids=["computed again", "kept"])
def test_golden_trajectory(golden_dir, minilm, activation_bytes):
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
    state, step = None, None
    for lists, expected, num_distinct in zip(
        golden["steps"], golden["losses"], golden["unique_passages_per_step"], strict=True
    ):
        records, texts = golden_records(lists)
        queries: dict[str, int] = {}
        table = ListTable.read(records, queries)
        planner = BatchPlanner(
            TokensInMemory(student.tokenizer.encode(texts)),
            TokensInMemory(student.tokenizer.encode(list(queries))),
            student.tokenizer,
            query_max_length=golden["query_max_length"],
            passage_max_length=golden["passage_max_length"],
            shapes=encoder.shapes,
            size=BatchSize(16, 6, 96),
        )
        if step is None:
            rows = planner.buffer_rows
            step = TrainStep(
                encoder.embedder,
                objective,
                optimizer,
                buffer_rows=rows,
                activation_bytes=activation_bytes,
            )
            state = step.init(student.params)
        plan = planner(table, np.arange(len(table)))
        assert plan.num_distinct_passages == num_distinct
        assert len(plan.token_batches) > 1
        state, result = step(state, plan)
        metrics = result.metrics()
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
