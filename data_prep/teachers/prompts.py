"""Prompts of rerankers that read one text: their published forms, and their encoding.

Sources, as published by each model's authors:
  qwen3_reranker: model card of Qwen/Qwen3-Reranker-0.6B (arXiv 2506.05176); its public score is
    sigmoid(logit(yes) - logit(no)), so the difference is its logit.
  bge_gemma: model card of BAAI/bge-reranker-v2-gemma and FlagEmbedding's FlagLLMReranker; its
    public score is logit(Yes) alone. Its card cuts query and passage together at 1024 tokens, and
    adds the instruction to that; here max_length counts everything.
  bge_lightweight: model card of BAAI/bge-reranker-v2.5-gemma2-lightweight.
"""

import enum
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.teachers.token_teacher import INPUT_IDS, Encoded
from ldx.common.errors import UserError

TEMPLATE_FIELDS = ("query", "passage", "instruction")


class Form(enum.StrEnum):
    """The logits that the score is made of."""

    DIFFERENCE = "difference"  # logit(yes) - logit(no)
    YES = "yes"  # logit(yes)


def _fields(part: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(part) if field is not None]


@dataclass(frozen=True)
class PairPrompt:
    """A prompt that makes one text of a pair.

    Attributes:
      parts: the parts of the prompt. Each is tokenized by itself, and the tokens are joined, so
        that no token crosses the border of two parts. Fields are {query}, {passage} and
        {instruction}.
      bos: whether the tokens begin with the tokenizer's bos token.
      eos: whether they end with its eos token.
    """

    parts: tuple[str, ...]
    bos: bool = False
    eos: bool = False

    def __repr__(self) -> str:
        # Teachers' fingerprints hash this text: it must not change with the name of the class.
        return f"Prompt(parts={self.parts!r}, bos={self.bos!r}, eos={self.eos!r})"

    def __post_init__(self) -> None:
        try:
            fields = [field for part in self.parts for field in _fields(part)]
        except ValueError as error:
            raise UserError(f"template={self.parts!r}: {error}; write {{{{ for a brace") from None
        unknown = sorted(set(fields) - set(TEMPLATE_FIELDS))
        if unknown or fields.count("query") != 1 or fields.count("passage") != 1:
            raise UserError(
                f"template={self.parts!r}: has the fields {fields}; wanted {{query}} and "
                "{passage}, once each, and if need be {instruction}"
            )


@dataclass(frozen=True)
class Preset:
    """A published prompt and the settings that belong to it.

    Attributes:
      prompt: the prompt.
      instruction: what stands at {instruction}.
      yes: the token that says a passage is relevant.
      no: the token that says it is not.
      form: what the score is made of, the value of a `Form`.
      max_length: the most tokens of a prompt.
    """

    prompt: PairPrompt
    instruction: str
    yes: str
    no: str
    form: str
    max_length: int

    def __post_init__(self) -> None:
        if self.form not in list(Form):
            raise UserError(f"form={self.form!r}: wanted {' or '.join(Form)}")

    @property
    def words(self) -> tuple[str, ...]:
        """The words whose logits make the score: yes and no, or yes alone."""
        return (self.yes, self.no) if self.form == Form.DIFFERENCE else (self.yes,)


_BGE_PARTS = ("A: {query}", "\n", "B: {passage}", "\n", "{instruction}")

PRESETS = {
    "qwen3_reranker": Preset(
        PairPrompt(
            (
                "<|im_start|>system\nJudge whether the Document meets the requirements based on "
                'the Query and the Instruct provided. Note that the answer can only be "yes" or '
                '"no".'
                "<|im_end|>\n<|im_start|>user\n",
                "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}",
                "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            )
        ),
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        yes="yes",
        no="no",
        form="difference",
        max_length=8192,
    ),
    "bge_gemma": Preset(
        PairPrompt(_BGE_PARTS, bos=True),
        instruction="Given a query A and a passage B, determine whether the passage contains an "
        "answer to the query by providing a prediction of either 'Yes' or 'No'.",
        yes="Yes",
        no="No",
        form="yes",
        max_length=1024,
    ),
    "bge_lightweight": Preset(
        PairPrompt(_BGE_PARTS, bos=True),
        instruction="Predict whether passage B contains an answer to query A.",
        yes="Yes",
        no="No",
        form="yes",
        max_length=1024,
    ),
}


def choose_preset(
    template: str | Sequence[str],
    *,
    instruction: str | None = None,
    yes: str | None = None,
    no: str | None = None,
    form: str | None = None,
    max_length: int | None = None,
) -> Preset:
    """A preset, in which the settings replace what they name.

    Args:
      template: the name of a preset, or the parts of a prompt of one's own. Such a prompt has no
        bos token; unless set otherwise, its words are yes and no, its form is difference, and its
        max_length 1024.
      instruction: see `Preset`; None takes the preset's, here and below.
      yes: see `Preset`.
      no: see `Preset`.
      form: see `Preset`.
      max_length: see `Preset`.

    Raises:
      UserError: there is no such preset, or the prompt lacks query or passage.
    """
    if isinstance(template, str):
        if template not in PRESETS:
            raise UserError(
                f"template={template!r}: known are {', '.join(PRESETS)}, and the parts of a prompt "
                'of your own, such as ("Query: {query}", "\\nPassage: {passage}", "\\nRelevant:")'
            )
        base = PRESETS[template]
    else:
        base = Preset(PairPrompt(tuple(template)), "", "yes", "no", Form.DIFFERENCE.value, 1024)
    return Preset(
        base.prompt,
        base.instruction if instruction is None else instruction,
        base.yes if yes is None else yes,
        base.no if no is None else no,
        base.form if form is None else form,
        base.max_length if max_length is None else max_length,
    )


class PromptEncoder:
    """An encoder of prompts to token ids; a passage that is too long is cut, and nothing else.

    Args:
      tokenizer: a fast tokenizer of transformers.
      prompt: the prompt that makes one text of a pair.
      max_length: the most tokens of a prompt.
      instruction: what stands at {instruction}.

    Raises:
      UserError: the prompt begins or ends with a token that the tokenizer does not have.
    """

    def __init__(self, tokenizer: Any, prompt: PairPrompt, max_length: int, instruction: str = ""):
        self._tokenizer, self._prompt = tokenizer, prompt
        self._max_length, self._instruction = max_length, instruction
        self._first = _special(tokenizer.bos_token_id, "bos") if prompt.bos else []
        self._last = _special(tokenizer.eos_token_id, "eos") if prompt.eos else []
        self._fields = [_fields(part) for part in prompt.parts]
        self._passage_at = next(i for i, f in enumerate(self._fields) if "passage" in f)

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[Encoded]:
        """Encode pairs as input_ids.

        Raises:
          ValueError: a query leaves no room for its passage.
        """
        columns = [self._part(i, queries, passages) for i in range(len(self._fields))]
        return [
            self._join(list(pieces), query)
            for *pieces, query in zip(*columns, queries, strict=True)
        ]

    def _part(
        self, number: int, queries: Sequence[str], passages: Sequence[str]
    ) -> Sequence[list[int]]:
        part = self._prompt.parts[number]
        if not {"query", "passage"} & set(self._fields[number]):
            return [self._tokens([self._format(part, "", "")])[0]] * len(queries)
        texts = [self._format(part, q, p) for q, p in zip(queries, passages, strict=True)]
        return self._tokens(texts)

    def _join(self, pieces: list[list[int]], query: str) -> Encoded:
        piece = pieces[self._passage_at]
        others = len(self._first) + sum(map(len, pieces)) - len(piece) + len(self._last)
        room = self._max_length - others
        if len(piece) > room:
            part = self._prompt.parts[self._passage_at]
            least = len(self._tokens([self._format(part, query, "")])[0])
            if room <= least:
                raise ValueError(
                    f"{others + least} tokens without the passage, max_length is {self._max_length}"
                )
            pieces[self._passage_at] = piece[:room]
        ids = [*self._first, *(i for piece in pieces for i in piece), *self._last]
        return {INPUT_IDS: np.array(ids, np.int32)}

    def _format(self, part: str, query: str, passage: str) -> str:
        return part.format(query=query, passage=passage, instruction=self._instruction)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


def _special(token_id: int | None, name: str) -> list[int]:
    if token_id is None:
        raise UserError(f"this model's tokenizer has no {name} token, which the template wants")
    return [token_id]
