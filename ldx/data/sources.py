"""A corpus to train on: its records, its lists in memory, its tokens on disk.

One run may have several (`config.data.sources`); each has its own rows, prompts and calibration.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ldx.common.errors import UserError
from ldx.common.sections import build
from ldx.data.lists import ListTable
from ldx.data.pipeline import epoch_counts
from ldx.data.tokens import Texts, TextTokenizer, TokenStore
from ldx.parallel.processes import primary_first
from ldx.records.manifest import Manifest
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import ListSet, PassageSet, PassageTexts


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """A section of `config.data.sources`, named by its source; configs/base.py explains it."""

    records: str
    weight: float = 1.0
    root: str = ""
    query_prompt: str | None = None
    passage_prompt: str | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.weight) or self.weight <= 0:
            raise UserError(
                f"config.data.sources: weight={self.weight!r} of {self.records}: wanted a number "
                "over 0"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An opened source.

    Attributes:
      name: its name, shown with its metrics.
      config: where it is and how often its lists stand in an epoch.
      manifest: the manifest of its records.
      train: training lists; `query` points into `query_texts` and `queries`.
      dev: dev lists, in the same form.
      judged: dev lists of people's queries and judgments, uncut; there may be none.
      query_texts: every distinct query text of all splits.
      passages: tokens of every passage, by row.
      queries: tokens of `query_texts`.
      stored: embeddings float32 [passages, D] of passages that are not trained; None: they are.
    """

    name: str
    config: SourceConfig
    manifest: Manifest
    train: ListTable
    dev: ListTable
    judged: ListTable
    query_texts: list[str]
    passages: TokenStore
    queries: TokenStore
    stored: np.ndarray | None = None


class QueryTexts(Sequence[str]):
    """Distinct queries as the model sees them, with the prompt in front."""

    def __init__(self, queries: Sequence[str], prompt: str):
        self._queries, self._prompt = queries, prompt

    def __len__(self) -> int:
        """The number of queries."""
        return len(self._queries)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        """The text of a query, prompt included."""
        return self._prompt + self._queries[number]


def open_source(
    name: str,
    config: SourceConfig,
    manifest: Manifest,
    *,
    folder: Path,
    tokenizer: TextTokenizer,
    query_prompt: str,
    passage_prompt: str,
    list_size: int | None,
    check: Callable[[str, ListTable], None],
) -> Source:
    """Read and check the lists of a source, and open its tokens, which are made where missing.

    Args:
      name: the name of the source.
      config: the section of the source.
      manifest: the manifest of its records.
      folder: the folder of token stores.
      tokenizer: the student's tokenizer.
      query_prompt: the student's prompt, which is used where the section has none.
      passage_prompt: the student's prompt for passages, which is used in the same way.
      list_size: the most entries of a list; longer ones are cut.
      check: called with the split and its lists, before anything is tokenised.

    Raises:
      UserError: records are damaged, or `check` refuses them.
    """
    tables, queries = _read_lists(name, config, list_size, check)
    if config.query_prompt is not None:
        query_prompt = config.query_prompt
    if config.passage_prompt is not None:
        passage_prompt = config.passage_prompt
    prints = manifest.fingerprints
    passages = PassageTexts(
        PassageSet(config.records),
        prompt=passage_prompt,
        template=manifest.passage_template,
        max_chars=manifest.max_chars,
    )
    texts: dict[str, tuple[Texts, str]] = {
        "passages": (passages, f"{prints['passages']} {passages!r}"),
        "queries": (
            QueryTexts(queries, query_prompt),
            f"queries {prints['lists']} {query_prompt!r}",
        ),
    }
    # One process makes the tokens, then the others find them.
    with primary_first(f"tokens of {name}"):
        stores = {
            kind: TokenStore.open_or_build(
                folder, texts=items, tokenizer=tokenizer, key=key, description=f"{kind} of {name}"
            )
            for kind, (items, key) in texts.items()
        }
    return Source(
        name,
        config,
        manifest,
        train=tables["train"],
        dev=tables["dev"],
        judged=tables["judged"],
        query_texts=queries,
        passages=stores["passages"],
        queries=stores["queries"],
    )


def _read_lists(
    name: str,
    config: SourceConfig,
    list_size: int | None,
    check: Callable[[str, ListTable], None],
) -> tuple[dict[str, ListTable], list[str]]:
    """The checked lists by split, and the distinct queries of all of them."""
    queries: dict[str, int] = {}
    tables = {}
    for split in ("train", "dev"):
        records = ListSet(config.records, split)
        tables[split] = ListTable.read(
            records,
            queries,
            list_size=list_size,
            only=lambda record: record.query_type != HUMAN_DEV,
            description=f"lists of {name}",
        )
        check(f"{name} {split}", tables[split])
    tables["judged"] = ListTable.read(
        ListSet(config.records, "dev"),
        queries,
        only=lambda record: record.query_type == HUMAN_DEV,
        description=f"judged queries of {name}",
    )
    return tables, list(queries)


def check_query_types(weights: Mapping[str, float], manifests: Mapping[str, Manifest]) -> None:
    """Refuse a weight of a query type that no source has, and weights under 0.

    Raises:
      UserError: a weight is refused; the message names its key.
    """
    known = {t for m in manifests.values() for t in m.num_lists["train"]}
    for name, weight in weights.items():
        if name not in known:
            raise UserError(
                f"config.data.query_type_weights.{name}: no training list is of that type; there "
                f"are {', '.join(sorted(known))}"
            )
        if not _is_number(weight) or weight < 0:
            raise UserError(
                f"config.data.query_type_weights.{name}={weight!r}: wanted a number of at least 0"
            )


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def source_configs(data: Mapping[str, object], workdir: Path) -> dict[str, SourceConfig]:
    """The sources of `config.data`: its `sources`, or the one of `records`, named "".

    Raises:
      UserError: a key is unknown or missing, or both `sources` and `records` are set.
    """
    sections = data["sources"] or {}
    if not isinstance(sections, Mapping):
        raise UserError(
            f'config.data.sources={sections!r}: wanted {{NAME: {{"records": FOLDER, ...}}}}, as '
            "configs/base.py explains"
        )
    if not sections:
        return {"": SourceConfig(str(data["records"] or workdir / "records"))}
    for key in ("records", "root"):
        if data[key]:
            raise UserError(
                f"config.data.{key}={data[key]!r} is set beside config.data.sources, where each "
                "source has its own"
            )
    return {
        name: build(SourceConfig, section, f"data.sources.{name}")
        for name, section in sections.items()
    }


def prompts_of_sources(
    configs: Mapping[str, SourceConfig], query_prompt: str, passage_prompt: str
) -> dict[str, tuple[str, str]]:
    """The prompts of queries and passages by source; a source without its own has the model's.

    Args:
      configs: the sources by name.
      query_prompt: the model's prompt for queries.
      passage_prompt: the model's prompt for passages.
    """
    return {
        name: (
            query_prompt if config.query_prompt is None else config.query_prompt,
            passage_prompt if config.passage_prompt is None else config.passage_prompt,
        )
        for name, config in configs.items()
    }


def lists_of_epoch(
    configs: Mapping[str, SourceConfig],
    manifests: Mapping[str, Manifest],
    query_type_weights: Mapping[str, float],
) -> list[int]:
    """How many training lists each source has in an epoch.

    Raises:
      UserError: a source has none, or a weight is of a query type that no source has.
    """
    check_query_types(query_type_weights, manifests)
    counts = []
    for name, config in configs.items():
        num_lists = manifests[name].num_lists["train"]
        count = sum(epoch_counts(num_lists, config.weight, query_type_weights).values())
        if not count:
            raise UserError(
                f"an epoch would have no training list of {name or config.records}; raise its "
                "weight, or config.data.query_type_weights"
            )
        counts.append(count)
    return counts
