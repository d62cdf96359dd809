"""What every key of a config may be: one table of rules, checked before anything is loaded.

configs/base.py says what the keys mean. Sections of losses, retrievers, teachers, graded sources
and language models are checked where they are described.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ldx.common.errors import UserError
from ldx.common.sections import flatten_config
from ldx.common.types import IndexKind


@dataclasses.dataclass(frozen=True)
class Rule:
    """The values that a key may have.

    Attributes:
      accepts: whether a value, which is none of `words`, is allowed.
      requirement: what is allowed, for the message.
      words: values that are allowed as well, such as None or "auto".
    """

    accepts: Callable[[Any], bool]
    requirement: str
    words: tuple[str | None, ...] = ()

    @property
    def wanted(self) -> str:
        """All that is allowed, for a message."""
        return _listing([self.requirement, *map(str, self.words)])

    def allows(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return value in self.words or self.accepts(value)


def whole(least: int, *words: str | None) -> Rule:
    """A whole number of at least `least`."""
    return Rule(
        lambda value: _is_number(value) and isinstance(value, int) and value >= least,
        f"a whole number of at least {least}",
        words,
    )


def number(
    *words: str | None,
    least: float | None = None,
    over: float | None = None,
    most: float | None = None,
    under: float | None = None,
) -> Rule:
    """A finite number between bounds, which are allowed themselves (least, most) or not."""
    bounds = {"of at least": least, "over": over, "at most": most, "under": under}
    given = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]

    def accepts(value: Any) -> bool:
        return (
            _is_number(value)
            and math.isfinite(value)
            and (least is None or value >= least)
            and (over is None or value > over)
            and (most is None or value <= most)
            and (under is None or value < under)
        )

    return Rule(accepts, " ".join(["a number", " and ".join(given)]).strip(), words)


def one_of(*names: str | None) -> Rule:
    """One of several words."""
    return Rule(lambda value: value in names, _listing([str(name) for name in names]))


def _listing(names: Sequence[str]) -> str:
    """Names with commas between them, and "or" before the last."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_are(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(accepts, value))


FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
FLAG_OR_NONE = dataclasses.replace(FLAG, words=(None,))
TEXT = Rule(lambda value: isinstance(value, str), "a text")
TEXT_OR_NONE = dataclasses.replace(TEXT, words=(None,))
TEXTS_OR_NONE = Rule(
    lambda value: _all_are(value, lambda each: isinstance(each, str)), "texts in brackets", (None,)
)
LENGTHS_OR_NONE = Rule(
    lambda value: _all_are(value, whole(1).accepts), "whole numbers in brackets", (None,)
)

_MODEL = {
    "path": TEXT,
    "pooling": one_of("mean", "cls", None),
    "normalize": FLAG_OR_NONE,
    "query_prompt": TEXT_OR_NONE,
    "passage_prompt": TEXT_OR_NONE,
    "query_max_length": whole(1, None),
    "passage_max_length": whole(1, None),
    "dtype": one_of("float32", "bfloat16"),
}
RULES: Mapping[str, Rule] = {
    "seed": whole(0),
    **{f"model.{key}": rule for key, rule in _MODEL.items()},
    "model.attention": one_of("auto", "xla", "cudnn"),
    "model.remat": FLAG,
    **{f"guide.{key}": rule for key, rule in _MODEL.items()},
    "data.root": TEXT,
    "data.records": TEXT,
    "data.passage_template": TEXT,
    "data.max_chars": whole(1, None),
    "data.batch_size": whole(1, "auto"),
    "data.list_size": whole(1, None),
    "data.block_size": whole(1),
    "loss.matryoshka.dims": LENGTHS_OR_NONE,
    "loss.matryoshka.weights": Rule(
        lambda value: _all_are(value, number(over=0).accepts),
        "numbers over 0 in brackets",
        (None,),
    ),
    "optim.learning_rate": number("auto", least=0),
    "optim.warmup_steps": whole(0, "auto"),
    "optim.schedule": one_of("linear", "constant"),
    "optim.final_factor": number(least=0, most=1),
    "optim.weight_decay": number(least=0),
    "optim.clip_norm": number(None, over=0),
    "optim.b1": number(least=0, under=1),
    "optim.b2": number(least=0, under=1),
    "optim.eps": number(over=0),
    "optim.passage_map_learning_rate": number(least=0),
    "train.towers": one_of("both", "query"),
    "train.passage_map": one_of("", "linear"),
    "train.max_epochs": whole(1),
    "train.num_steps": whole(1, None),
    "train.eval_every": whole(1, None),
    "train.stop_on": one_of("loss", "ndcg", None),
    "train.select_by": one_of("ndcg", "loss"),
    "train.alpha": number("auto", over=0, most=2),
    "train.average_with": Rule(
        lambda value: isinstance(value, list | tuple) and all(map(TEXT.accepts, value)),
        "folders in brackets",
    ),
    "train.patience": whole(1),
    "train.dev_pool": whole(1),
    "train.microbatch_tokens": whole(1, "auto"),
    "train.activation_bytes": whole(0, "auto"),
    "train.bucket_lengths": LENGTHS_OR_NONE,
    "train.fsdp": whole(1),
    "eval.split": TEXT,
    "eval.index": one_of(*IndexKind),
    "eval.relevance_level": whole(1),
    "checkpoint.every_minutes": number(least=0),
    "logging.every_steps": whole(1),
    "logging.tensorboard": FLAG,
    "logging.wandb_project": TEXT,
    "prep.collection": TEXT,
    "prep.packages": dataclasses.replace(TEXTS_OR_NONE, words=()),
    "prep.language": TEXT,
    "prep.max_passages": whole(1, None),
    "prep.max_rejects": number(least=0, under=1),
    "prep.drop_near_duplicates": FLAG,
    "prep.keep_digits": FLAG,
    "prep.num_held_out": whole(0),
    "prep.max_source_passages": whole(1, None),
    "prep.queries": TEXT,
    "prep.log": TEXT,
    "prep.human_split": TEXT,
    "prep.human_dev_split": TEXT,
    "prep.query_types": TEXTS_OR_NONE,
    "prep.max_queries": whole(1, None),
    "prep.max_attempts": whole(1),
    "prep.document_prompt": TEXT,
    "prep.index": one_of(*IndexKind),
    "prep.candidate_depth": whole(2, "auto"),
    "prep.range_min": whole(0),
    "prep.range_max": whole(1, None),
    "prep.sampling_strategy": one_of("top", "spread"),
    "prep.num_candidates": whole(1, None),
    "prep.rank_limit": whole(1, None),
    "prep.calibration": one_of("percentile", "z_score", "rank", "none"),
    "prep.require_own_first": FLAG,
    "prep.min_top_score_percentile": number(None, least=0, under=100),
    "prep.list_size": whole(2, None),
    "prep.list_sampling": one_of("top", "stratified"),
    "prep.absolute_margin": number(None),
    "prep.relative_margin": number(None),
    "prep.max_score": number(None),
    "prep.list_source": one_of("teacher", "graded"),
    "prep.dev_fraction": number(over=0, under=1),
    "prep.shard_size": whole(1),
}

ELSEWHERE = (
    *("data.query_type_weights", "data.sources", "loss"),
    *("prep.retrievers", "prep.teachers", "prep.graded", "prep.llm", "prep.python"),
)
"""Sections whose keys are checked where they are described, and those with names of the user's."""


def check_values(config: Mapping[str, Any]) -> None:
    """Check every key of a config, of which sections may be missing.

    Raises:
      UserError: a key is unknown, or its value is not allowed; the message says what is.
    """
    for key, value in flatten_config(config).items():
        if rule := RULES.get(key):
            if not rule.allows(value):
                raise UserError(f"config.{key}={value!r}: wanted {rule.wanted}")
        elif not key.startswith(tuple(f"{section}." for section in ELSEWHERE)):
            near = difflib.get_close_matches(key, RULES, n=1, cutoff=0)
            raise UserError(f"config.{key}: there is no such key; did you mean {near[0]}?")
