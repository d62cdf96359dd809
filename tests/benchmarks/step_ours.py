"""ldx's side of the step benchmark: its own planner, shapes and programs, put together as training
does it (`ldx.training.parts`), on lists that are in memory.

Q queries, L list entries, P distinct passages.
"""

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jax
import numpy as np

from ldx.common.files import read_json
from ldx.common.types import Params
from ldx.data.batching import Shapes, best_lengths, default_num_lengths
from ldx.data.lists import BatchSize, ListTable
from ldx.data.plan import BatchPlan, BatchPlanner, Devices
from ldx.data.tokens import Tokens
from ldx.models.bert import KEY_TABLE
from ldx.models.student import Student, load_student
from ldx.models.weights import flatten
from ldx.parallel.embedder import Embedder
from ldx.parallel.mesh import make_mesh, to_host
from ldx.step.memory import auto_activation_bytes, auto_microbatch_tokens
from ldx.step.objective import make_objective
from ldx.step.optim import OptimConfig, make_optimizer
from ldx.step.train_step import TrainStep
from tests.benchmarks.lists import BenchmarkLists, load
from tests.benchmarks.step_cases import (
    CONTRASTIVE,
    DISTILL,
    OUR_MEMORY_SHARE,
    PASSES_ONCE_FORWARD,
    PASSES_TWICE_FORWARD,
    REFERENCE,
    Setup,
    SideResult,
    forward_flops,
)
from tests.benchmarks.worker import peak_memory, reset_peak

LISTWISE = {"weight": 1.0, "student_temperature": 0.05, "teacher_temperature": 0.3}
INFO_NCE = {"temperature": 0.01, "block_size": 16_384}
OBJECTIVES: dict[str, dict[str, dict[str, Any]]] = {
    REFERENCE: {
        "listwise_kl": LISTWISE,
        "info_nce": INFO_NCE | {"weight": 0.1, "false_negative_ratio": 0.6},
    },
    DISTILL: {"listwise_kl": LISTWISE},
    CONTRASTIVE: {"info_nce": INFO_NCE | {"weight": 1.0, "false_negative_ratio": None}},
}
OPTIMIZER = OptimConfig(learning_rate=0.0, warmup_steps=10)
"""AdamW does all its work, and the weights stay those that the other side has."""


class TimedStep(TrainStep):
    """A step that waits for each of its phases, and tells of them.

    Attributes:
      seconds: embed, loss and backprop of the last step.
      is_kept: of each micro-batch, whether its activations were kept.
      gradients: of the last step, [devices, ...] each.
    """

    seconds: dict[str, float]
    is_kept: list[bool]
    gradients: Params

    def _embed(self, *args: Any, **kwargs: Any) -> Any:
        self.gradients = {}  # makes room
        start = time.perf_counter()
        buffer, kept = super()._embed(*args, **kwargs)
        jax.block_until_ready((buffer, kept))
        self._embedded = time.perf_counter()
        self.seconds = {"embed": self._embedded - start}
        self.is_kept = [activations is not None for activations in kept]
        return buffer, kept

    def _backpropagate(
        self, params: Params, plan: BatchPlan, gradients: Params, buffer: Any, *args: Any
    ) -> Params:
        jax.block_until_ready(buffer)
        start = time.perf_counter()
        self.gradients = super()._backpropagate(params, plan, gradients, buffer, *args)
        jax.block_until_ready(self.gradients)
        self.seconds["loss"] = start - self._embedded
        self.seconds["backprop"] = time.perf_counter() - start
        return self.gradients


class OurSide:
    """ldx with one choice of `activation_bytes`, everything compiled.

    Args:
      setup: model, lists and sizes.
      activations: `activation_bytes`, or "auto".
      num_devices: of the mesh.
    """

    def __init__(self, setup: Setup, *, activations: int | str, num_devices: int = 1):
        _configure(setup)
        case = setup.case
        self._sizes = read_json(f"{setup.folder}/config.json")
        self._lists = load(setup.lists)
        student = load_student(
            setup.folder,
            query_max_length=setup.query_max_length,
            passage_max_length=case.passage_max_length,
            dtype=case.dtype,
        )
        self.planner = make_planner(self._lists, student, case.num_queries, num_devices)
        lists = self._lists
        self._table = list_table(lists.query, lists.rows, lists.teacher_scores)
        self._step = TimedStep(
            Embedder(student.embed, make_mesh(num_devices)),
            make_objective(OBJECTIVES[case.rival]),
            make_optimizer(OPTIMIZER, num_steps=1000),
            buffer_rows=self.planner.buffer_rows,
            activation_bytes=auto_activation_bytes(student.params)
            if activations == "auto"
            else int(activations),
        )
        self._state = self._step.init(student.params)
        start = time.perf_counter()
        self._step.compile(self._state, self.planner.shapes, self.planner.size)
        self.compile_seconds = time.perf_counter() - start

    def plan(self, numbers: np.ndarray) -> BatchPlan:
        """The plan of a batch."""
        return self.planner(self._table, numbers)

    def plan_seconds(self, numbers: np.ndarray) -> float:
        """What planning a batch takes; the median of three."""
        return statistics.median(_seconds(lambda: self.plan(numbers)) for _ in range(3))

    def step(self, numbers: np.ndarray, num_steps: int = 1) -> list[SideResult]:
        """Do steps one after the other, each planned while another runs."""
        batches = _ahead(_SameBatch(self, numbers, num_steps + 1))
        plan, results = next(batches), []
        for _ in range(num_steps):
            result = self._one_step(plan)
            start = time.perf_counter()
            plan = next(batches)
            result.notes["input_wait"] = time.perf_counter() - start
            results.append(result)
        return results

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last step, by Hugging Face's names."""
        return gradients_by_name(self._step, self._sizes["num_hidden_layers"])

    def _one_step(self, plan: BatchPlan) -> SideResult:
        resting = reset_peak()
        start = time.perf_counter()
        self._state, result = self._step(self._state, plan)
        jax.block_until_ready((self._state, result.values))
        seconds = time.perf_counter() - start
        phases, metrics = self._step.seconds, result.metrics()
        kept = sum(self._step.is_kept) / len(self._step.is_kept)
        return SideResult(
            seconds=seconds,
            model_seconds=phases["embed"] + phases["backprop"],
            loss=metrics["total"],
            padded_tokens=plan.num_padded_tokens,
            real_tokens=plan.num_tokens,
            flops=self._flops(plan),
            peak_bytes=_peak_bytes(),
            notes={f"{name}_seconds": value for name, value in phases.items()}
            | {"microbatches": len(plan.token_batches), "kept_microbatches": kept}
            | {"compile_seconds": self.compile_seconds, "resting_bytes": resting},
        )

    def _flops(self, plan: BatchPlan) -> float:
        total, sizes = 0.0, self._sizes
        for batch, is_kept in zip(plan.token_batches, self._step.is_kept, strict=True):
            passes = PASSES_ONCE_FORWARD if is_kept else PASSES_TWICE_FORWARD
            total += passes * forward_flops(
                batch.mask.sum(axis=1),
                sizes["num_hidden_layers"],
                sizes["hidden_size"],
                sizes["intermediate_size"],
            )
        return total


def fake_devices(setup: Setup, num_devices: int) -> OurSide:
    """ldx's side on so many fake CPU devices; in a process that has not used JAX yet."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    return OurSide(setup, activations=0, num_devices=num_devices)


def make_planner(
    lists: BenchmarkLists, student: Student, num_queries: int, num_devices: int = 1
) -> BatchPlanner:
    """The planner of a run on one process, shapes chosen as `ldx.training.parts` does."""
    config, backend = student.config, jax.default_backend()
    max_length = max(config.query_max_length, config.passage_max_length)
    size = batch_size(lists, num_queries)
    lengths = best_lengths(
        text_lengths(lists, size, config.query_max_length, config.passage_max_length),
        max_length,
        default_num_lengths(backend),
    )
    tokens = auto_microbatch_tokens(student.embed, student.params, max_length)
    return BatchPlanner(
        cast(Tokens, lists.passages),
        cast(Tokens, lists.queries),
        lists,
        query_max_length=config.query_max_length,
        passage_max_length=config.passage_max_length,
        shapes=Shapes.make(lengths[-1], tokens, num_devices=num_devices, lengths=lengths),
        size=size,
        devices=Devices(num_devices, tuple(range(num_devices))),
    )


def batch_size(lists: BenchmarkLists, num_queries: int) -> BatchSize:
    """The padded sizes of a batch."""
    num_slots = num_queries * lists.list_size
    return BatchSize(num_queries, lists.list_size, min(len(lists.passages), num_slots))


def text_lengths(
    lists: BenchmarkLists, size: BatchSize, query_max_length: int, passage_max_length: int
) -> np.ndarray:
    """Tokens of passages and queries in the proportion of a batch, as in `ldx.training.parts`."""
    passages = lists.passage_lengths(passage_max_length)
    queries = lists.query_lengths(query_max_length)
    num = max(1, min(len(queries), len(passages) * size.num_queries // size.num_passages))
    return np.concatenate(
        [passages, [queries.max()], np.random.default_rng(0).permutation(queries)[:num]]
    )


def list_table(query: np.ndarray, rows: np.ndarray, teacher_scores: np.ndarray) -> ListTable:
    """Lists as the planner takes them; nothing is judged.

    Args:
      query: int [Q], each list's query.
      rows: int [Q, L], its entries.
      teacher_scores: float32 [Q, L].
    """
    num_lists, list_size = rows.shape
    return ListTable(
        list_ids=[str(number) for number in range(num_lists)],
        query=query,
        rows=rows,
        sizes=np.full(num_lists, list_size, np.int32),
        teacher_scores=teacher_scores,
        has_scores=np.ones(num_lists, bool),
        labels=np.full(rows.shape, -1, np.int32),
        query_type=np.zeros(num_lists, np.int32),
        query_types=[""],
        order_key=np.arange(num_lists),
    )


def gradients_by_name(step: "TimedStep", num_layers: int) -> dict[str, np.ndarray]:
    """The gradients of a step, by Hugging Face's names."""
    flat = flatten(jax.tree.map(lambda g: to_host(g).sum(axis=0), step.gradients))
    return {
        rule.hf_name: flat[rule.path].T if rule.transpose else flat[rule.path]
        for rule in KEY_TABLE.expand(num_layers)
    }


class _SameBatch:
    """One batch again and again, planned anew each time, as a source of `read_ahead`."""

    def __init__(self, side: OurSide, numbers: np.ndarray, length: int):
        self._side, self._numbers, self._length = side, numbers, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> BatchPlan:
        return self._side.plan(self._numbers)

    def __repr__(self) -> str:
        return f"_SameBatch({self._length})"


def _ahead(source: _SameBatch) -> Iterator[BatchPlan]:
    """The source's items planned in threads: by Grain, as in training, or without it."""
    try:
        from ldx.data.pipeline import read_ahead
    except ImportError:
        return _ahead_in_threads(source)
    return read_ahead(source, 0)


def _ahead_in_threads(source: _SameBatch, num_threads: int = 2) -> Iterator[BatchPlan]:
    with ThreadPoolExecutor(num_threads) as threads:
        plans = [threads.submit(source.__getitem__, step) for step in range(len(source))]
        while plans:
            yield plans.pop(0).result()


def _configure(setup: Setup) -> None:
    """Settings of JAX, before it looks for devices."""
    if setup.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        return
    # PyTorch uses the same GPU, so JAX must not take its memory before it needs it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(OUR_MEMORY_SHARE))
    if setup.case.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # and no TF32
    assert jax.default_backend() == "gpu", jax.default_backend()


def _peak_bytes() -> int | None:
    stats: Mapping[str, int] = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or peak_memory()


def _seconds(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
