"""How systems did on a collection that people judged: metrics, intervals, tests against the base.

The numbers are those of results.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldx.eval.beir import Dataset
from ldx.eval.metrics import METRIC, METRICS, Run, Scores, compare, confidence_interval, score_run

BASE = "base"
TRAINED = "trained"
SHOWN = (METRIC, "R@100")  # on the screen; queries are compared by the first


@dataclass(frozen=True)
class Outcome:
    """Base, trained model and baselines on one collection.

    Attributes:
      name: of the source, "" where there is but one.
      collection: the name people know it by.
      dataset: passages, queries, judgments.
      runs: by system, base first.
      scores: metrics of every query, by system.
      facts: metrics of a system, `METRIC_interval`, and, but for the base, `METRIC_difference`,
        `METRIC_difference_interval`, `METRIC_p_value` (paired randomisation test),
        `METRIC_t_test_p_value` (paired t-test), `METRIC_wins`, `_losses` and `_ties`. The last
        five stand there without a prefix too, of nDCG@10.
    """

    name: str
    collection: str
    dataset: Dataset
    runs: Mapping[str, Run]
    scores: Mapping[str, Scores]
    facts: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Its name and sizes."""
        dataset = self.dataset
        return (
            f"{self.collection} {dataset.split}: {len(dataset.qrels)} queries, "
            f"{len(dataset.corpus)} passages"
        )


def score_runs(
    name: str, dataset: Dataset, runs: Mapping[str, Run], relevance_level: int
) -> Outcome:
    """Score the runs of a source's systems, the base model's among them."""
    scores = {
        system: score_run(dataset.qrels, run, relevance_level=relevance_level)
        for system, run in runs.items()
    }
    facts = {
        system: _facts(each, None if system == BASE else scores[BASE])
        for system, each in scores.items()
    }
    return Outcome(name, name or dataset.root.name, dataset, runs, scores, facts)


def _facts(scores: Scores, base: Scores | None) -> dict[str, Any]:
    facts: dict[str, Any] = dict(scores.mean)
    for metric in METRICS:
        facts[f"{metric}_interval"] = confidence_interval(scores.per_query[metric].values())
        if base is None:
            continue
        result = compare(scores.per_query[metric], base.per_query[metric])
        facts[f"{metric}_difference"] = result.difference
        facts[f"{metric}_difference_interval"] = (result.low, result.high)
        tests = {
            key: getattr(result, key)
            for key in ("p_value", "t_test_p_value", "wins", "losses", "ties")
        }
        facts |= {f"{metric}_{key}": value for key, value in tests.items()}
        if metric == METRIC:
            facts |= tests
    return facts


def results(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What results.json holds: facts by system, or by SOURCE/system where there are several."""
    return {
        f"{outcome.name}/{system}" if outcome.name else system: facts
        for outcome in outcomes
        for system, facts in outcome.facts.items()
    }


def format_table(outcome: Outcome) -> str:
    """Systems by row; intervals are 95%, p is of the paired permutation test against base."""
    head = f"{'':8}  {METRIC:7}  {'95% interval':16}  {SHOWN[1]:6}  {'against base':24}  p"
    lines = [head]
    for name, facts in outcome.facts.items():
        low, high = facts[f"{METRIC}_interval"]
        line = f"{name:8}  {facts[METRIC]:.4f}   [{low:.4f}, {high:.4f}]  {facts[SHOWN[1]]:.4f}"
        if "p_value" in facts:
            low, high = facts[f"{METRIC}_difference_interval"]
            change = f"{facts[f'{METRIC}_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            line += f"  {change:24}  {facts['p_value']:.4f}"
        lines.append(line)
    return "\n".join(lines)
