"""Sections of the report on the training data, as the records' manifests tell, and on settings."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from ldx.common.versions import installed_versions
from ldx.data.cut import Cut
from ldx.records.coverage import Coverage
from ldx.records.manifest import Manifest
from ldx.report.common import NoData
from ldx.report.html import (
    Html,
    details,
    facts,
    folded_json,
    join,
    note,
    paragraph,
    subsection,
    table,
)
from ldx.training.leakage import Leakage

PACKAGES = ("ldx", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
SPLITS = ("train", "dev")

Facts = Mapping[str, Any]


def data_section(
    manifests: Mapping[str, Manifest],
    leakage: Mapping[str, Leakage],
    cuts: Mapping[str, Sequence[Cut]],
) -> Html:
    """Counts, yields of filters, agreement and calibration, and what is shared with the test.

    Args:
      manifests: of the sources' records.
      leakage: what training lists and test share, by source; a source without a test has none.
      cuts: what the model's maximum lengths cut off, by source.
    """
    if not manifests:
        raise NoData("The records' manifests could not be read.")
    parts = [
        subsection(name, *_source_parts(manifest, leakage.get(name), cuts.get(name, ())))
        for name, manifest in manifests.items()
    ]
    return join(parts)


def _source_parts(manifest: Manifest, leakage: Leakage | None, cuts: Sequence[Cut]) -> list[Html]:
    by_type, graded = (_facts(manifest, stage) for stage in ("calibrate", "grade"))
    parts = [_lists_table(manifest), *_coverage_parts(manifest), *_leakage_parts(leakage)]
    parts += _cut_table(cuts)
    parts += _graded_tables(graded)
    parts += _filter_tables(by_type)
    parts += _agreement_table(by_type)
    parts += _calibration_parts(manifest, by_type)
    stages = {stage: _without(counts, "facts") for stage, counts in manifest.yields.items()}
    if stages:
        rows = [[stage, *row] for stage, counts in stages.items() for row in _leaves(counts)]
        for row in rows:
            row[1] = _COUNT_NAMES.get(row[1], row[1])
        every = table(["stage", "count", "value"], rows, num_text_columns=2)
        parts.append(details("What every stage counted", every))
    else:
        parts.append(note("The records do not tell what their filters let through."))
    for title, value in (("Teachers", manifest.teachers), ("Prompts", manifest.prompts)):
        if value:
            parts.append(folded_json(title, value))
    return parts


_COUNT_NAMES = {"quantiles: of": "quantiles of the scores below: at these shares"}
"""What the page shows for counts whose recorded names say too little."""


def _facts(manifest: Manifest, stage: str) -> dict[str, dict[str, Any]]:
    """The facts that a stage of data_prep leaves for reports, by query type."""
    facts_by_type = _dict(_dict(manifest.yields.get(stage)).get("facts"))
    return {name: values for name, values in facts_by_type.items() if isinstance(values, dict)}


def _lists_table(manifest: Manifest) -> Html:
    types = list(dict.fromkeys(t for split in manifest.num_lists.values() for t in split))
    rows: list[list[object]] = [
        [name, *(manifest.num_lists.get(split, {}).get(name, 0) for split in SPLITS)]
        for name in types
    ]
    if len(types) > 1:
        rows.append(["all", *(sum(manifest.num_lists.get(s, {}).values()) for s in SPLITS)])
    caption = f"Lists; the passage set has {manifest.num_passages} passages"
    return table(["query type", *SPLITS], rows, caption=caption)


def _coverage_parts(manifest: Manifest) -> list[Html]:
    """How much of the corpus the training lists touch; the head says where that is too little."""
    coverage = Coverage.from_yields(manifest.yields)
    if coverage is None:
        return []
    return [paragraph(f"{coverage.sentence()}.")]


_FILTER_NAMES = {
    "own passage found": "the query's own passage is found",
    "own passage first": "the teacher puts the query's own passage first",
    "full list": "enough candidates have a score",
    "top score": "the best score is high enough",
    "a positive with a score": "the positive has a score, after de-noising",
    "full list of what is left": "enough candidates are left for a list",
}
"""What the page shows for the names that data_prep records."""


def _filter_tables(by_type: Facts) -> list[Html]:
    """Queries left after every filter, and the entries that de-noising took away."""
    yields = {name: value for name, each in by_type.items() if (value := _dict(each.get("yields")))}
    if not yields:
        return []
    names = list(dict.fromkeys(name for each in yields.values() for name in each))
    firsts = {query_type: next(iter(counts.values())) for query_type, counts in yields.items()}
    rows = [
        [
            _FILTER_NAMES.get(name, name),
            *(_share(counts.get(name), firsts[t], name) for t, counts in yields.items()),
        ]
        for name in names
    ]
    caption = "Queries that stay after every filter, one filter after the other"
    return [table(["filter", *yields], rows, caption=caption)]


def _graded_tables(by_type: Facts) -> list[Html]:
    """Lists of graded labels: the queries that have one, and each source's labels."""
    if not by_type:
        return []
    yields = {query_type: _dict(each.get("yields")) for query_type, each in by_type.items()}
    names = list(dict.fromkeys(name for counts in yields.values() for name in counts))
    rows = [[t, *(counts.get(name, 0) for name in names)] for t, counts in yields.items()]
    caption = "Queries with graded lists, and why the others have none"
    parts = [table(["query type", *names], rows, caption=caption)]
    entries = {
        (query_type, source): _dict(counts)
        for query_type, each in by_type.items()
        for source, counts in _dict(each.get("sources")).items()
    }
    if entries:
        kinds = list(dict.fromkeys(kind for counts in entries.values() for kind in counts))
        labels = sorted((k for k in kinds if k.startswith("label ")), key=_level, reverse=True)
        kinds = labels + [kind for kind in kinds if kind not in labels]
        rows = [[*key, *(counts.get(kind, 0) for kind in kinds)] for key, counts in entries.items()]
        head = ["query type", "source", *kinds]
        caption = "Entries that the sources of graded lists gave, by label"
        parts.append(table(head, rows, caption=caption, num_text_columns=2))
    return parts


def _level(kind: str) -> int:
    return int(kind.removeprefix("label "))


def _share(count: int | None, first: int, name: str) -> str:
    if count is None or name.startswith("entries ") or not first:
        return "" if count is None else str(count)
    return f"{count} ({count / first:.0%})"


def _agreement_table(by_type: Facts) -> list[Html]:
    rows = [
        [query_type, pair, f"{value['tau']:.3f}", f"{value['top-1']:.0%}"]
        for query_type, each in by_type.items()
        for pair, value in each.get("agreement", {}).items()
    ]
    if not rows:
        return []
    head = ["query type", "teachers", "Kendall's tau", "same first passage"]
    return [table(head, rows, caption="Agreement of teachers", num_text_columns=2)]


_LEAKAGE_NAMES = {
    "num_lists": "training lists",
    "num_queries": "test queries",
    "lists_with_test_query": "training lists with the words of a test query",
    "judgments_in_lists": "test judgments (query, relevant passage) that such lists hold",
    "judged_passages": "passages relevant to a test query",
    "judged_in_lists": "of these, in a training list",
    "judged_as_positives": "of these, first of a training list",
}


def _leakage_parts(leakage: Leakage | None) -> list[Html]:
    caption = "What training lists and test share"
    if leakage is None:
        return [note(f"{caption} is not known: the run had no test of this collection.")]
    rows = [[_LEAKAGE_NAMES[name], count] for name, count in vars(leakage).items()]
    about = (
        "A list with the words of a test query is a leak where it holds judgments of the test; "
        "judged passages alone are none, for the corpus is given."
    )
    return [table(["", "number"], rows, caption=caption), note(about)]


def _cut_table(cuts: Sequence[Cut]) -> list[Html]:
    rows = [
        [
            cut.what,
            f"{cut.num_texts:,}",
            cut.limit,
            f"{cut.num_cut / max(cut.num_texts, 1):.1%}",
            f"{cut.num_lost / max(cut.num_tokens, 1):.1%}",
        ]
        for cut in cuts
    ]
    caption = "What the model's maximum lengths cut off"
    names = ["texts", "number", "tokens at most", "texts that are cut", "tokens cut off"]
    return [table(names, rows, caption=caption)] if rows else []


def _calibration_parts(manifest: Manifest, by_type: Facts) -> list[Html]:
    calibration = manifest.calibration
    if not calibration:
        return []
    settings = {
        name.replace("_", " "): value
        for name, value in calibration.items()
        if not isinstance(value, dict | list)
    }
    parts = [note("Calibration of the teachers' scores"), facts(settings)]
    scales = {
        (query_type, teacher): scale
        for query_type, teachers in _dict(calibration.get("scales")).items()
        for teacher, scale in _dict(teachers).items()
        if isinstance(scale, dict)
    }
    if scales:
        names = list(dict.fromkeys(name for scale in scales.values() for name in scale))
        rows = [
            [*key, *(_number(scale[name]) if name in scale else "" for name in names)]
            for key, scale in scales.items()
        ]
        head = ["query type", "teacher", *names]
        parts.append(table(head, rows, caption="Scales of raw scores", num_text_columns=2))
    entropies = {name: each["entropy"] for name, each in by_type.items() if each.get("entropy")}
    if entropies:
        names = list(next(iter(entropies.values())))
        rows = [[t, *(_number(each.get(n, "")) for n in names)] for t, each in entropies.items()]
        caption = "Entropy of the targets, as a share of the flat distribution's"
        parts.append(table(["query type", *names], rows, caption=caption))
    return parts


def _dict(value: Any) -> dict[str, Any]:
    """The value if it is a dict, else an empty one: others may write records that hold anything."""
    return value if isinstance(value, dict) else {}


def _without(value: Any, key: str) -> Any:
    return {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value


def _leaves(value: Any, path: Sequence[str] = ()) -> list[list[str]]:
    """Names and values of nested counts, a row for each."""
    if isinstance(value, dict):
        return [row for key, each in value.items() for row in _leaves(each, (*path, str(key)))]
    if isinstance(value, list):
        text = ", ".join(map(_number, value))
    else:
        text = _number(value)
    return [[": ".join(path), text]]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    """The versions of Python and the libraries that training uses."""
    return {"python": platform.python_version(), **installed_versions(PACKAGES)}


def settings_section(config: Facts, manifests: Mapping[str, Manifest]) -> Html:
    """The whole config and the versions, folded away."""
    parts = [folded_json("The whole experiment (config.json)", config)]
    by_writer = {"this report": versions()}
    for name, manifest in manifests.items():
        by_writer[f"records of {name or manifest.collection}"] = manifest.versions
    names = list(dict.fromkeys(name for each in by_writer.values() for name in each))
    rows = [[name, *(each.get(name, "") for each in by_writer.values())] for name in names]
    parts.append(
        details("Versions", table(["", *by_writer], rows, num_text_columns=1 + len(by_writer)))
    )
    return join(parts)
