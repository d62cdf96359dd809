"""What the step benchmark compares, and what a side tells of a step; imports neither library.

Q queries (lists), L list entries, D hidden size, T tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.benchmarks.lists import BenchmarkLists

REFERENCE = "reference"
DISTILL = "DistillKLDivLoss"
CONTRASTIVE = "CachedMultipleNegativesRankingLoss"

OUR_MEMORY_SHARE = 0.4
THEIR_MEMORY_SHARE = 0.55
"""Of a GPU's memory, at most: both sides hold what they need at the same time."""

PASSES_TWICE_FORWARD = 4
"""Forward passes that a step's work equals: two, and a backward pass of twice a forward pass."""
PASSES_ONCE_FORWARD = 3
"""The same where the second forward pass is spared."""


@dataclass(frozen=True)
class StepCase:
    """One comparison.

    Attributes:
      collection: whose lists.
      model: "2-layer" or "6-layer" (of MiniLM), or "bert-base".
      num_queries: Q.
      rival: what ldx is compared with: REFERENCE, DISTILL or CONTRASTIVE.
      activations: ldx is run with each of these `activation_bytes`; the first is run most often.
      num_checked: lists of the batch on which equality is checked first; 0 checks nothing.
      is_timed: False if this is a check alone.
      max_microbatches: at most so many of the reference's are run in a timed step; None: as time
        allows.
      share: of the benchmark's time, relative to the other cases.
      dtype: of the model's matrix products.
      passage_max_length: tokens.
      lists_per_microbatch: of the reference.
      steps_a_round: steps of ldx in each round, one after the other.
    """

    collection: str
    model: str
    num_queries: int
    rival: str = REFERENCE
    activations: tuple[int | str, ...] = ("auto",)
    num_checked: int = 0
    is_timed: bool = True
    max_microbatches: int | None = None
    share: float = 1.0
    dtype: str = "float32"
    passage_max_length: int = 128
    lists_per_microbatch: int = 16
    steps_a_round: int = 1

    @property
    def name(self) -> str:
        """What `--cases` selects by."""
        rival = "" if self.rival == REFERENCE else f" {self.rival}"
        return f"{self.collection} {self.model} Q={self.num_queries} {self.dtype}{rival}"

    def row_name(self, activations: int | str) -> str:
        """The name of the row with these `activation_bytes`."""
        return self.name if activations == "auto" else f"{self.name} activations={activations}"


@dataclass(frozen=True)
class Setup:
    """What each side of a case is made from, in a process of its own.

    Attributes:
      case: the comparison.
      lists: the file of the lists.
      folder: the model.
      device: "cpu" or "gpu".
    """

    case: StepCase
    lists: str
    folder: str
    device: str = "cpu"
    query_max_length: int = 64


@dataclass(frozen=True)
class SideResult:
    """What one side tells of one step.

    Attributes:
      seconds: of the step; ldx's with the optimiser's update, the others' without.
      model_seconds: of embedding and back-propagation alone.
      loss: what is minimised; None where a sample of the micro-batches was run.
      padded_tokens: of one pass over the batch, queries included.
      real_tokens: those of them that are no padding.
      flops: of the layers' matrix products on real tokens, all passes counted.
      peak_bytes: of the process on a CPU, of the library on a GPU, while the step ran.
      notes: further facts, such as "input_wait", in seconds.
    """

    seconds: float
    model_seconds: float
    loss: float | None
    padded_tokens: int
    real_tokens: int
    flops: float
    peak_bytes: int | None
    notes: dict[str, Any] = field(default_factory=dict)


CPU_CASES = (
    StepCase("nfcorpus", "2-layer", 256, num_checked=64, share=270),
    StepCase("nfcorpus", "2-layer", 1024, share=310),
    StepCase("scifact", "2-layer", 1024, num_checked=64, share=460),
    StepCase("nfcorpus", "6-layer", 32, num_checked=32, share=290),
    StepCase("nfcorpus", "2-layer", 16, DISTILL, num_checked=16, share=90),
    StepCase("nfcorpus", "2-layer", 32, CONTRASTIVE, num_checked=16, share=150),
)
"""So many that three steps of a side fit into half an hour on two cores."""


def gpu_cases(collections: tuple[str, ...] = ("nfcorpus", "scifact")) -> tuple[StepCase, ...]:
    """BERT-base at 64/512 tokens: equality in float32, then times in bfloat16, largest first."""
    check = StepCase(
        collections[0],
        "bert-base",
        32,
        num_checked=32,
        is_timed=False,
        passage_max_length=512,
        lists_per_microbatch=2,
        share=0.5,
    )
    timed = [
        StepCase(
            name,
            "bert-base",
            num_queries,
            activations=("auto", 0) if num_queries == 4096 else ("auto",),
            max_microbatches=32,
            dtype="bfloat16",
            passage_max_length=512,
            share=2.0 if num_queries == 4096 else 1.0,
            steps_a_round=3,
        )
        for num_queries in (4096, 1024, 256)
        for name in collections
    ]
    return (check, *timed)


def batch_numbers(num_lists: int, num_queries: int) -> np.ndarray:
    """The lists of the batch that a case runs on; that of fewer queries is the beginning of it."""
    assert num_queries <= num_lists, (num_queries, num_lists)
    return np.random.default_rng(0).permutation(num_lists)[:num_queries]


def disjoint_lists(rows: np.ndarray, number: int) -> np.ndarray:
    """The first lists that share no passage, at most `number` of them.

    Args:
      rows: int [N, L].
      number: the most lists.
    """
    taken: set[int] = set()
    chosen: list[int] = []
    for place, row in enumerate(rows.tolist()):
        if len(chosen) < number and taken.isdisjoint(row):
            taken.update(row)
            chosen.append(place)
    return np.array(chosen, int)


def checked_numbers(case: StepCase, lists: BenchmarkLists) -> np.ndarray:
    """The lists on which both sides have to compute the same.

    sentence-transformers' InfoNCE counts a query's own positive as often as it stands in the batch,
    ldx's counts it once: there the lists share no passage.
    """
    numbers = batch_numbers(len(lists), case.num_queries)
    if case.rival == CONTRASTIVE:
        numbers = numbers[disjoint_lists(lists.rows[numbers], case.num_checked)]
    return numbers[: case.num_checked]


def forward_flops(lengths: np.ndarray, num_layers: int, hidden: int, intermediate: int) -> float:
    """Floating point operations of the layers' matrix products in one forward pass.

    2 for each weight of a layer and token, and 4·T·D for attention at each token of a text.

    Args:
      lengths: real tokens of each text.
      num_layers: the layers.
      hidden: D.
      intermediate: the width of the feed-forward network.
    """
    tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    weights = 4 * hidden**2 + 2 * hidden * intermediate
    return num_layers * (2 * weights * tokens + 4 * hidden * squares)
