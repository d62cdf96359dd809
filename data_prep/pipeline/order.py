"""The stages that a config needs, in their order."""

from data_prep.pipeline.settings import EntryKind, LabelOrigin, PrepConfig, graded_kinds

STAGES = (
    "corpus",
    "generate_queries",
    "mine",
    "score",
    "calibrate",
    "write_tfrecords",
    "baselines",
)
"""The stages where a teacher scores the lists."""

GRADED_STAGES = (
    "corpus",
    "generate_queries",
    "generate_documents",
    "mine",
    "grade",
    "write_tfrecords",
)
"""The stages where lists have graded labels."""

STAGES_ON_ENGINES = ("generate_queries", "generate_documents", "score")
"""The stages that an engine may run elsewhere; the others always run in their own process."""


def stages_of(prep: PrepConfig) -> tuple[str, ...]:
    """The stages that `config.prep` needs, in their order."""
    if prep.list_source != LabelOrigin.GRADED:
        return STAGES
    kinds = graded_kinds(prep)
    needless = {"generate_documents"} if EntryKind.SYNTHETIC not in kinds else set()
    needless |= {"mine"} if EntryKind.MINED not in kinds else set()
    return tuple(name for name in GRADED_STAGES if name not in needless)
