"""Rows of the step benchmark: the medians of two sides, and what goes with them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.step_cases import CONTRASTIVE, SideResult, StepCase
from tests.benchmarks.table import Case, Row

LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
MIN_REPEATS = 3  # of a median

Gradients = Mapping[str, np.ndarray]


class NotEqual(Exception):
    """Two sides that should compute the same do not."""


def check_equal(
    name: str, ours: SideResult, theirs: SideResult, our_gradients: Gradients, gradients: Gradients
) -> dict[str, float]:
    """The differences of losses and gradients, both relative.

    Raises:
      NotEqual: they are too large for the times of the two sides to be compared.
    """
    assert ours.loss is not None
    assert theirs.loss is not None
    if our_gradients.keys() != gradients.keys():
        names = ", ".join(sorted(our_gradients.keys() ^ gradients.keys()))
        raise NotEqual(f"{name}: only one side has gradients of {names}")
    loss = abs(ours.loss - theirs.loss) / abs(theirs.loss)
    differences = [our_gradients[key] - x for key, x in gradients.items()]
    gradient = _norm(differences) / _norm(gradients.values())
    if not (loss <= LOSS_TOLERANCE and gradient <= GRADIENT_TOLERANCE):
        raise NotEqual(
            f"{name}: not the same result, so times are not compared: loss {ours.loss:.7g} and "
            f"{theirs.loss:.7g} (relative difference {loss:.1e}, allowed {LOSS_TOLERANCE:.0e}), "
            f"gradients differ by {gradient:.1e} of the norm (allowed {GRADIENT_TOLERANCE:.0e})"
        )
    return {"loss_difference": loss, "gradient_difference": gradient}


def _norm(arrays: Any) -> float:
    return float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays)))


def make_row(
    case: StepCase,
    activations: int | str,
    ours: Sequence[SideResult],
    theirs: Sequence[SideResult],
    extra: Mapping[str, Any],
    *,
    plan_seconds: float,
    matmul_rate: float,
) -> Row:
    """The row of one comparison.

    Args:
      case: the comparison.
      activations: ldx's `activation_bytes`.
      ours: ldx's results of the timed steps.
      theirs: the rival's.
      extra: more keys of the row.
      plan_seconds: what planning the batch took on the host.
      matmul_rate: floating point operations a second of a big matrix product.
    """
    ours_seconds, seconds = _median(ours, "seconds"), _median(theirs, "seconds")
    row = Case("step", case.row_name(activations), ours_seconds, seconds, "s").row()
    token_ratio = theirs[0].padded_tokens / ours[0].padded_tokens
    for side, results, median in (("ours", ours, ours_seconds), ("reference", theirs, seconds)):
        row |= _of_side(case, side, results, median, matmul_rate)
    waits = [result.notes["input_wait"] for result in ours]
    return row | {
        "rival": case.rival,
        "padded_token_ratio": token_ratio,
        "ratio_per_padded_token_ratio": row["ratio"] / token_ratio,
        "plan_seconds": plan_seconds,
        "plan_share": plan_seconds / ours_seconds,
        "input_wait_seconds": statistics.median(waits),
        "matmul_flops_a_second": matmul_rate,
        "notes": notes(case, ours, theirs),
        **extra,
    }


def _of_side(
    case: StepCase, side: str, results: Sequence[SideResult], seconds: float, matmul_rate: float
) -> Row:
    first = results[0]
    model_seconds = _median(results, "model_seconds")
    peaks = [result.peak_bytes for result in results if result.peak_bytes]
    values = {
        "seconds": [result.seconds for result in results],
        "repeats": len(results),
        "queries_a_second": case.num_queries / seconds,
        "real_tokens": first.real_tokens,
        "real_tokens_a_second": first.real_tokens / seconds,
        "padded_tokens": first.padded_tokens,
        "peak_bytes": max(peaks, default=None),
        "model_flops": first.flops,
        "matmul_share": first.flops / model_seconds / matmul_rate,
        "facts": dict(results[-1].notes),
    }
    return {f"{side}_{name}": value for name, value in values.items()}


def notes(case: StepCase, ours: Sequence[SideResult], theirs: Sequence[SideResult]) -> list[str]:
    """What a reader of the row has to know."""
    found = ["ours includes the optimiser's update, the reference has none"]
    if min(len(ours), len(theirs)) < MIN_REPEATS:
        found.append(f"fewer than {MIN_REPEATS} steps of a side: the time was short")
    samples = {
        (facts["timed_microbatches"], facts["microbatches"])
        for facts in (result.notes for result in theirs)
        if facts.get("timed_microbatches", 0) != facts.get("microbatches", 0)
    }
    found += [f"reference: {run} of {whole} micro-batches, scaled up" for run, whole in samples]
    if case.rival == CONTRASTIVE:
        found.append(
            "on lists that share passages the losses differ by definition: a query's own positive "
            "counts as often as it stands in the batch, in ldx once"
        )
    fitting = min(result.notes.get("lists_per_microbatch", math.inf) for result in theirs)
    if fitting < case.lists_per_microbatch:
        found.append(f"reference: {fitting} lists a micro-batch, more do not fit")
    return found


def shown(row: Row) -> list[Row]:
    """A row and its details, as rows of the table."""

    def detail(what: str, key: str, unit: str, *, higher: bool = False) -> list[Row]:
        ours, reference = row[f"ours_{key}"], row[f"reference_{key}"]
        if not ours or not reference:
            return []
        return [Case(f"  {what}", "", ours, reference, unit, higher_is_better=higher).row()]

    return [
        row,
        *detail("padded tokens", "padded_tokens", "tokens"),
        *detail("queries", "queries_a_second", "1/s", higher=True),
        *detail("real tokens", "real_tokens_a_second", "1/s", higher=True),
        *detail("peak memory", "peak_bytes", "bytes"),
        *detail("share of the matrix rate", "matmul_share", "", higher=True),
    ]


def remarks(row: Row) -> str:
    """What does not fit into the table, in lines."""
    differences = ""
    if "loss_difference" in row:
        differences = (
            f"; on {row['checked_lists']} lists loss and gradient differ by "
            f"{row['loss_difference']:.0e} and {row['gradient_difference']:.0e}"
        )
    return (
        f"{row['case']}: ratio of time / ratio of padded tokens "
        f"{row['ratio_per_padded_token_ratio']:.2f}; plan {1e3 * row['plan_seconds']:.0f} ms "
        f"({100 * row['plan_share']:.2f}% of a step), input wait "
        f"{1e3 * row['input_wait_seconds']:.2f} ms; steps {row['ours_repeats']} and "
        f"{row['reference_repeats']}{differences}\n  " + "\n  ".join(row["notes"])
    )


def _median(results: Sequence[SideResult], key: str) -> float:
    return statistics.median(getattr(result, key) for result in results)
