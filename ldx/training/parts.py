"""What a run needs to train, made from its settings: sources, batches, dev sets, the step."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from ldx.common.types import Params
from ldx.data.batching import (
    Shapes,
    best_lengths,
    default_num_lengths,
    limit_to_batch,
)
from ldx.data.lists import BatchSize
from ldx.data.pipeline import Batches, TrainingLists
from ldx.data.plan import BatchPlanner, Devices
from ldx.data.sources import Source, SourceConfig, open_source
from ldx.models.student import Student
from ldx.models.tokenizer import num_special
from ldx.models.towers import with_passage_map
from ldx.parallel.mesh import local_blocks, make_mesh
from ldx.records.manifest import Manifest
from ldx.retrieval.encoder import Encoder
from ldx.retrieval.store import EmbeddingStore
from ldx.step import optim
from ldx.step.list_check import ListCheck
from ldx.step.memory import auto_activation_bytes, auto_microbatch_tokens
from ldx.step.objective import Objective
from ldx.step.state import TrainState
from ldx.step.train_step import TrainStep
from ldx.training.dev_set import DevSet
from ldx.training.settings import Settings, TrainedTowers


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run needs to train; all programs of the step are compiled."""

    state: TrainState  # before the first step
    step: TrainStep
    batches: Batches
    dev: dict[str, DevSet]
    mesh: Mesh
    student: Student
    base: Params  # before the first step
    store: EmbeddingStore | None  # of dev evaluations


def open_sources(
    workdir: Path,
    settings: Settings,
    configs: Mapping[str, SourceConfig],
    manifests: Mapping[str, Manifest],
    student: Student,
    objective: Objective,
) -> dict[str, Source]:
    """Open all sources, check their lists and tokenise their texts.

    Raises:
      UserError: records are damaged, or have scores that the objective cannot use.
    """
    check = ListCheck(objective)
    sources = {}
    for name, config in configs.items():
        sources[name] = open_source(
            name or manifests[name].collection,
            config,
            manifests[name],
            folder=workdir / "tokens",
            tokenizer=student.tokenizer,
            query_prompt=student.config.query_prompt,
            passage_prompt=student.config.passage_prompt,
            list_size=settings.data.list_size,
            check=check,
        )
    return sources


def check_cut(settings: Settings, student: Student) -> Mesh:
    """The mesh of a run, after a check of how its work is cut, before anything is read.

    Raises:
      UserError: `train.fsdp` does not fit the devices, or `train.bucket_lengths` the lengths.
    """
    lengths = settings.train.bucket_lengths
    if lengths:
        is_stored = settings.train.towers == TrainedTowers.QUERY
        Shapes.make(_max_length(student, is_stored=is_stored), 1, lengths=lengths)
    return make_mesh(fsdp=settings.train.fsdp)


def _max_length(student: Student, *, is_stored: bool) -> int:
    """The most tokens of a text that the step embeds; stored passages are not among them."""
    config = student.config
    if is_stored:
        return config.query_max_length
    return max(config.query_max_length, config.passage_max_length)


def make_parts(
    settings: Settings,
    student: Student,
    objective: Objective,
    sources: Mapping[str, Source],
    mesh: Mesh,
    store: EmbeddingStore | None = None,
) -> Parts:
    """Make planners, batches, dev sets, the step and the first state, over all devices.

    Dev evaluations look embeddings up in `store`, and keep theirs there.
    """
    size = _batch_size(settings, sources, mesh.size)
    shapes = _shapes(settings, student, sources, size, mesh.size)
    encoder = Encoder(student, mesh=mesh, shapes=shapes, store=store)
    planners = {
        name: _planner(student, source, shapes, size, mesh) for name, source in sources.items()
    }
    batches = Batches(
        [
            TrainingLists(
                source.name,
                source.train,
                planners[name],
                source.config.weight,
                settings.data.query_type_weights,
            )
            for name, source in sources.items()
        ],
        batch_size=settings.data.batch_size,
        seed=settings.seed,
        num_steps=settings.train.num_steps,
        block_size=settings.data.block_size,
    )
    dev = {
        source.name: DevSet(
            source.dev,
            source.judged,
            planners[name],
            encoder,
            objective,
            judges_of=source.manifest.judges_of,
            num_passages=len(source.passages) - source.manifest.num_synthetic_passages,
            pool_size=settings.train.dev_pool,
            seed=settings.seed,
        )
        for name, source in sources.items()
    }
    has_map = bool(settings.train.passage_map)
    optimizer = optim.make_optimizer(settings.optim, settings.train.num_steps)
    if has_map:
        optimizer = optim.with_passage_map(optimizer, settings.optim, settings.train.num_steps)
    step = TrainStep(
        encoder.embedder,
        objective,
        optimizer,
        buffer_rows=next(iter(planners.values())).buffer_rows,
        activation_bytes=_or_auto(
            settings.train.activation_bytes, lambda: auto_activation_bytes(student.params)
        ),
    )
    base = with_passage_map(student.params) if has_map else student.params
    state = step.init(base)
    is_kept = bool(os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    hint = "" if is_kept else " (JAX_COMPILATION_CACHE_DIR=FOLDER keeps them for later runs)"
    logging.info("compiling the programs of %d shapes: up to minutes%s", len(shapes.all), hint)
    step.compile(state, shapes, size)
    for dev_set in dev.values():
        dev_set.compile(student.params)
    return Parts(state, step, batches, dev, mesh, student, base, store)


def _batch_size(settings: Settings, sources: Mapping[str, Source], num_devices: int) -> BatchSize:
    """The padded sizes of every batch of any source, with as many queries for every device."""
    num_queries = -(-settings.data.batch_size // num_devices) * num_devices
    list_size = max(max(s.train.list_size, s.dev.list_size) for s in sources.values())
    num_passages = max(len(source.passages) for source in sources.values())
    first = next(iter(sources.values()))
    guide, stored = first.train.guide, first.stored
    return BatchSize(
        num_queries,
        list_size,
        min(num_passages, num_queries * list_size),
        guide_size=guide.passages.shape[1] if guide else 0,
        stored_size=0 if stored is None else stored.shape[1],
    )


def _shapes(
    settings: Settings,
    student: Student,
    sources: Mapping[str, Source],
    size: BatchSize,
    num_devices: int,
) -> Shapes:
    """Micro-batches that fit the texts' lengths and the devices' memory."""
    max_length = _max_length(student, is_stored=bool(size.stored_size))
    platform, texts = jax.default_backend(), _text_lengths(student, sources, size)
    lengths = settings.train.bucket_lengths or best_lengths(
        texts, max_length, default_num_lengths(platform)
    )

    def auto_tokens() -> int:
        enough = auto_microbatch_tokens(student.embed, student.params, max_length)
        if not size.stored_size:  # passages fill many micro-batches
            return enough
        batch_tokens = texts.mean() * size.num_queries / num_devices
        return limit_to_batch(enough, batch_tokens, lengths[-1], platform)

    tokens = _or_auto(settings.train.microbatch_tokens, auto_tokens)
    logging.info("micro-batches of %d tokens a device, padded to %s", tokens, tuple(lengths))
    longest = max_length if settings.train.bucket_lengths else lengths[-1]
    return Shapes.make(longest, tokens, num_devices=num_devices, lengths=lengths)


def _text_lengths(student: Student, sources: Mapping[str, Source], size: BatchSize) -> np.ndarray:
    """Tokens of the texts that batches embed, in the proportion in which batches hold them."""
    special, config = num_special(student.tokenizer), student.config
    rng, lengths = np.random.default_rng(0), []
    for source in sources.values():
        queries = np.minimum(source.queries.lengths + special, config.query_max_length)
        if source.stored is not None:
            lengths.append(queries)
            continue
        passages = np.minimum(source.passages.lengths + special, config.passage_max_length)
        # The longest texts of both kinds are among them, so that every text has an edge.
        num = max(1, min(len(queries), len(passages) * size.num_queries // size.num_passages))
        lengths += [passages, [queries.max()], rng.permutation(queries)[:num]]
    return np.concatenate(lengths)


def _or_auto(value: int | str, auto: Callable[[], int]) -> int:
    return auto() if isinstance(value, str) else value


def _planner(
    student: Student, source: Source, shapes: Shapes, size: BatchSize, mesh: Mesh
) -> BatchPlanner:
    return BatchPlanner(
        source.passages,
        source.queries,
        student.tokenizer,
        query_max_length=student.config.query_max_length,
        passage_max_length=student.config.passage_max_length,
        shapes=shapes,
        size=size,
        devices=Devices(mesh.size, tuple(local_blocks(mesh))),
        source=source.name,
        stored=source.stored,
    )
