"""The step of the query tower alone, beside sentence-transformers on the same frozen passages.

    python -m tests.benchmarks.query_step --json=FILE [--list-sizes=20,200] [--num-queries=32]

all-MiniLM-L6-v2 in float32 on this machine's CPU, with claims of SciFact from $LDX_DATA_DIR. The
entries of a list are random ones of 5,000 stored passages, which are random unit vectors, with
random teacher scores: what a step costs does not depend on them. Both sides hold the passages in
memory, embed the queries, take the KL divergence over the lists (`listwise_kl`;
`DistillKLDivLoss`) and update the weights by AdamW. ldx has tokenised its queries before, as in
training; the other side tokenises them in every step, which takes a millisecond. Losses and
gradients are compared before anything is timed, and the sides take turns, each in a process of its
own. The last row is ldx training both towers, on lists of 8 of passages of 256 tokens.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs.base import MINILM
from ldx.models.locate import resolve_model_path
from tests.benchmarks.table import (
    Case,
    Row,
    machine_description,
    median_interleaved,
    print_table,
    write_json,
)
from tests.benchmarks.worker import Worker, peak_memory, reset_peak

if TYPE_CHECKING:  # each side is a process that imports its own library alone
    from ldx.data.plan import BatchPlanner
    from ldx.models.student import Student

NUM_PASSAGES, DIM = 5_000, 384
QUERY_LENGTH, PASSAGE_LENGTH = 48, 256  # tokens
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.05, 0.5
LIST_OF_BOTH = 8
REPEATS = 7
GRADIENT_TOLERANCE = 1e-4  # of the gradient's norm, in float32
LOSS_TOLERANCE = 1e-5


class Batch(NamedTuple):
    """Q lists of L entries each.

    Attributes:
      queries: Q texts.
      rows: int32 [Q, L], the entries.
      teacher_scores: float32 [Q, L].
      passages: float32 [N, D], the stored embeddings.
    """

    queries: list[str]
    rows: np.ndarray
    teacher_scores: np.ndarray
    passages: np.ndarray


def make_batch(queries: Sequence[str], list_size: int) -> Batch:
    """Random lists, the same on both sides; teacher scores descend."""
    rng = np.random.default_rng(0)
    shape = (len(queries), list_size)
    rows = np.stack([rng.permutation(NUM_PASSAGES)[:list_size] for _ in queries]).astype(np.int32)
    scores = -np.sort(-rng.normal(size=shape)).astype(np.float32)
    passages = rng.normal(size=(NUM_PASSAGES, DIM)).astype(np.float32)
    return Batch(
        list(queries), rows, scores, passages / np.linalg.norm(passages, axis=1, keepdims=True)
    )


def make_planner(batch: Batch, student: "Student", texts: Sequence[str] | None) -> "BatchPlanner":
    """The planner of ldx, its shapes chosen as `ldx.training.parts` does; as for `OurStep`."""
    from ldx.data import batching
    from ldx.data.lists import BatchSize
    from ldx.data.plan import BatchPlanner
    from ldx.data.tokens import TokensInMemory
    from ldx.models.tokenizer import num_special
    from ldx.step.memory import auto_microbatch_tokens

    is_alone, (num, list_size) = texts is None, batch.rows.shape
    tokenizer, longest = student.tokenizer, QUERY_LENGTH if texts is None else PASSAGE_LENGTH
    queries = TokensInMemory(tokenizer.encode(batch.queries))
    passages = TokensInMemory(tokenizer.encode(texts or [""] * NUM_PASSAGES))
    embedded = queries if is_alone else passages
    sizes = np.minimum(embedded.lengths + num_special(tokenizer), longest)
    lengths = batching.best_lengths(sizes, longest, batching.default_num_lengths("cpu"))
    tokens = auto_microbatch_tokens(student.embed, student.params, longest)
    if is_alone:
        tokens = batching.limit_to_batch(tokens, sizes.mean() * num, lengths[-1], "cpu")
    num_passages, stored_size = min(NUM_PASSAGES, num * list_size), DIM if is_alone else 0
    return BatchPlanner(
        passages,
        queries,
        tokenizer,
        query_max_length=QUERY_LENGTH,
        passage_max_length=PASSAGE_LENGTH,
        shapes=batching.Shapes.make(lengths[-1], tokens, lengths=lengths),
        size=BatchSize(num, list_size, num_passages, stored_size=stored_size),
        stored=batch.passages if is_alone else None,
    )


class OurStep:
    """ldx's step, put together as `ldx.training.parts` does it.

    Args:
      batch: the lists.
      texts: the passages of a step of both towers; None: the query tower alone.
    """

    def __init__(self, batch: Batch, texts: Sequence[str] | None):
        import jax

        jax.config.update("jax_platforms", "cpu")
        from ldx.models.student import load_student
        from ldx.parallel.embedder import Embedder
        from ldx.parallel.mesh import make_mesh
        from ldx.step.memory import auto_activation_bytes
        from ldx.step.objective import make_objective
        from ldx.step.optim import OptimConfig, make_optimizer
        from tests.benchmarks.step_ours import TimedStep, list_table

        student = load_student(
            MINILM, query_max_length=QUERY_LENGTH, passage_max_length=PASSAGE_LENGTH
        )
        self._planner = make_planner(batch, student, texts)
        numbers = np.arange(len(batch.queries), dtype=np.int32)
        self._table = list_table(numbers, batch.rows, batch.teacher_scores)
        loss = {
            "weight": 1.0,
            "student_temperature": STUDENT_TEMPERATURE,
            "teacher_temperature": TEACHER_TEMPERATURE,
        }
        self._step = TimedStep(
            Embedder(student.embed, make_mesh(1)),
            make_objective({"listwise_kl": loss}),
            make_optimizer(OptimConfig(learning_rate=0.0, warmup_steps=10), num_steps=1000),
            buffer_rows=self._planner.buffer_rows,
            activation_bytes=auto_activation_bytes(student.params),
        )
        self._state = self._step.init(student.params)
        self._step.compile(self._state, self._planner.shapes, self._planner.size)
        self._num_layers = student.sizes.num_layers

    def step(self) -> float:
        """Do a step, its plan included; its loss. A rate of 0 leaves the weights as they are."""
        import jax

        plan = self._planner(self._table, np.arange(len(self._table)))
        self._state, result = self._step(self._state, plan)
        jax.block_until_ready(self._state)
        return result.metrics()["total"]

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last step, by Hugging Face's names."""
        from tests.benchmarks.step_ours import gradients_by_name

        return gradients_by_name(self._step, self._num_layers)

    def seconds(self) -> float:
        """The wall time of a step."""
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start

    def peak_bytes(self) -> int | None:
        """The most memory of the process during one step."""
        reset_peak()
        self.step()
        return peak_memory()


class TheirStep:
    """sentence-transformers: its model, tokenizer and loss, with passages out of a tensor."""

    def __init__(self, batch: Batch):
        import torch
        from sentence_transformers import SentenceTransformer, util
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

        self._model = SentenceTransformer(str(resolve_model_path(MINILM)), device="cpu").eval()
        self._model.max_seq_length = QUERY_LENGTH

        def scaled_dot(queries: Any, passages: Any) -> Any:
            return util.pairwise_dot_score(queries, passages) / STUDENT_TEMPERATURE

        self._loss = DistillKLDivLoss(self._model, similarity_fct=scaled_dot, temperature=1.0)
        self._queries, self._passages = batch.queries, torch.from_numpy(batch.passages)
        self._rows = torch.from_numpy(batch.rows.astype(np.int64))
        self._labels = torch.from_numpy(batch.teacher_scores) / TEACHER_TEMPERATURE
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=0.0)

    def step(self) -> float:
        """Do a step; its loss."""
        import torch

        self._optimizer.zero_grad()
        features = self._model.preprocess(self._queries)
        queries = self._model(features)["sentence_embedding"]
        columns = [self._passages[rows] for rows in self._rows.T]
        loss = self._loss.compute_loss_from_embeddings([queries, *columns], self._labels)
        loss.backward()
        self._norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0).item()
        self._optimizer.step()
        return loss.item()

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients of the last step, before they were clipped to norm 1."""
        factor = max(1.0, self._norm + 1e-6)
        return {
            name: factor * parameter.grad.numpy()
            for name, parameter in self._model[0].auto_model.named_parameters()  # type: ignore[union-attr]
            if parameter.grad is not None
        }

    seconds, peak_bytes = OurStep.seconds, OurStep.peak_bytes  # type: ignore[assignment]


def check_equal(ours: Worker, theirs: Worker) -> dict[str, float]:
    """The differences of loss and gradient.

    Raises:
      SystemExit: the sides compute something else.
    """
    our_loss, their_loss = ours.call("step"), theirs.call("step")
    our_gradients, expected = ours.call("gradients"), theirs.call("gradients")
    norm = np.sqrt(sum((value**2).sum() for value in expected.values()))
    squares = sum(
        ((our_gradients[name].reshape(value.shape) - value) ** 2).sum()
        for name, value in expected.items()
    )
    differences = {
        "loss_difference": float(abs(our_loss - their_loss) / abs(their_loss)),
        "gradient_difference": float(np.sqrt(squares) / norm),
    }
    limits = (LOSS_TOLERANCE, GRADIENT_TOLERANCE)
    if not all(value <= limit for value, limit in zip(differences.values(), limits, strict=True)):
        raise SystemExit(f"the sides compute different things: {differences}")
    return differences


def run_case(queries: Sequence[str], list_size: int, repeats: int) -> list[Row]:
    """The rows of one list size: queries per second, and peak memory."""
    batch = make_batch(queries, list_size)
    module = "tests.benchmarks.query_step"
    with (
        Worker(f"{module}:OurStep", batch=batch, texts=None) as ours,
        Worker(f"{module}:TheirStep", batch=batch) as theirs,
    ):
        differences = check_equal(ours, theirs)
        sides = {"ours": ours, "theirs": theirs}
        measured = median_interleaved(
            {name: lambda side=side: side.call("seconds") for name, side in sides.items()}, repeats
        )
        peaks = {name: side.call("peak_bytes") for name, side in sides.items()}
    rates = {name: len(queries) / value.median for name, value in measured.items()}
    seconds = {f"{name}_seconds": list(value.values) for name, value in measured.items()}
    name = f"query tower, Q={len(queries)} L={list_size}"
    speed = Case(
        "query_step",
        name,
        rates["ours"],
        rates["theirs"],
        "queries/s",
        higher_is_better=True,
        extra=differences | seconds,
    )
    rows = [speed.row()]
    if None not in peaks.values():
        peak = [value / 2**20 for value in peaks.values()]
        rows.append(Case("query_step", name, *peak, "MiB").row())
    return rows


def run_both(queries: Sequence[str], texts: Sequence[str], rate: float) -> Row:
    """The row of both towers on short lists; the reference is `rate`, that of the query tower."""
    batch = make_batch(queries, LIST_OF_BOTH)
    with Worker("tests.benchmarks.query_step:OurStep", batch=batch, texts=list(texts)) as side:
        side.call("step")
        both = len(queries) / statistics.median(side.call("seconds") for _ in range(3))
    name = f"both towers, Q={len(queries)} L={LIST_OF_BOTH}; the reference is the query tower"
    return Case("query_step", name, both, rate, "queries/s", higher_is_better=True).row()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print the table and write its rows."""
    from ldx.eval.beir import CorpusTexts, load_dataset

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.query_step")
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--list-sizes", default="20,200", help="entries of a list")
    parser.add_argument("--num-queries", type=int, default=32, help="lists of a batch")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each side")
    arguments = parser.parse_args(argv)
    if not os.environ.get("LDX_DATA_DIR"):
        parser.error("LDX_DATA_DIR is not set; it names the folder of the collections")
    dataset = load_dataset(Path(os.environ["LDX_DATA_DIR"]) / "scifact", "test")
    queries = list(dataset.queries.values())[: arguments.num_queries]
    rows: list[Row] = []
    for list_size in map(int, arguments.list_sizes.split(",")):
        case_rows = run_case(queries, list_size, arguments.repeats)
        print_table(case_rows)
        rows += case_rows
    corpus = CorpusTexts(dataset.corpus, "{title} {text}")
    rows.append(
        run_both(queries, [corpus[row] for row in range(NUM_PASSAGES)], case_rows[0]["ours"])
    )
    print_table(rows)
    write_json(arguments.json, [row | {"machine": machine_description()} for row in rows])


if __name__ == "__main__":
    main()
