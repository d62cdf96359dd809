"""Small random batches with a model of one layer, for tests of plans and of the step."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize, ListTable
from ldx.data.plan import BatchPlanner, Devices
from ldx.data.tokens import TokensInMemory
from ldx.models.pooling import normalize
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh
from ldx.records.schema import ListRecord
from ldx.step.objective import make_objective
from ldx.step.train_step import TrainStep
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


def make_planner(problem, num_devices=1, num_queries=8, local=None, *, stored=None):
    """A planner; `stored` are passages' embeddings, for training of the query tower alone."""
    return BatchPlanner(
        TokensInMemory(problem.passages),
        TokensInMemory(problem.queries),
        Special(),
        query_max_length=16,
        passage_max_length=20,
        shapes=Shapes.make(20, 64, num_devices=num_devices, lengths=(8, 20)),
        size=BatchSize(num_queries, 6, 30, stored_size=0 if stored is None else DIM),
        devices=Devices(num_devices, tuple(range(num_devices)) if local is None else local),
        stored=stored,
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


def check_nothing_is_compiled(step, planner, problem, num_steps):
    """After `compile`, whatever the batches hold: any number of lists, few or many texts."""
    state = step.init(problem.params_as(np.float32))
    step.compile(state, planner.shapes, planner.size)
    compiled = []
    with count_compilations(compiled):
        rng = np.random.default_rng(0)
        for _ in range(num_steps):
            numbers = rng.permutation(8)[: rng.integers(1, 9)]
            state, result = step(state, planner(problem.table(), numbers))
            result.metrics()
    assert not compiled
