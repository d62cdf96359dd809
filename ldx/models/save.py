"""Writing a student as a sentence-transformers folder, checked before it takes its place."""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.common.types import Params
from ldx.models.bert import KEY_TABLE, BertConfig
from ldx.models.st_folder import EXPORT_NAME, POOLING_KEYS, read_st_folder
from ldx.models.student import Student, load_student
from ldx.models.tokenizer import pad_tokens
from ldx.models.weights import WEIGHTS_NAME, load_unused, save_weights

MIN_COSINE = 0.9999
CHECK_ROWS = 20  # texts embedded together in the check
TOKENIZER_FILES = ("vocab.txt", "special_tokens_map.json", "added_tokens.json")
MODULES = ("Transformer", "Pooling", "Normalize")


def save_student(
    student: Student,
    params: Params,
    folder: str | Path,
    *,
    card: str,
    texts: Sequence[str],
    passage_template: str | None,
) -> None:
    """Write a folder that SentenceTransformer(DIR) and AutoModel.from_pretrained(DIR) open.

    It is written beside its place and read back, by sentence-transformers where that is installed,
    else by ldx. It takes its place only if the embeddings of `texts` are then those of the student.

    Args:
      student: the model that the parameters belong to.
      params: the parameters to write.
      folder: the folder to write; absent, empty, or an earlier export, which is replaced.
      card: the text of README.md.
      texts: what the check embeds, every other one as a query.
      passage_template: how title and text became passages; ldx joins them like this by default
        where this model is used. None: it is not recorded.

    Raises:
      UserError: the folder is something else, or the check fails; nothing is left behind.
    """
    folder = Path(folder)
    check_student_folder(folder)
    params = jax.device_get(params)
    with _replacing(folder) as temporary:
        _write(student, params, temporary)
        declared: dict[str, Any] = {"query_max_length": student.config.query_max_length}
        if passage_template is not None:
            declared["passage_template"] = passage_template
        write_json(temporary / EXPORT_NAME, declared)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _check(student, params, temporary, texts)


def check_student_folder(folder: str | Path) -> None:
    """Refuse a folder that an export would destroy.

    Raises:
      UserError: it is a file, or a folder with something else than an earlier export.
    """
    folder = Path(folder)
    if not folder.exists() or (folder / EXPORT_NAME).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder}: exists and is no export of ldx; give another --output")


def max_seq_length(student: Student) -> int:
    """The one maximum length that the format has; ldx's own file beside it has that of queries."""
    return max(student.config.query_max_length, student.config.passage_max_length)


def _write(student: Student, params: Params, folder: Path) -> None:
    base = read_st_folder(student.folder)
    hf_config = read_json(base.transformer / "config.json")
    for key in ("_name_or_path", "auto_map", "torch_dtype"):
        hf_config.pop(key, None)
    hf_config |= {"architectures": ["BertModel"], "dtype": "float32"}
    write_json(folder / "config.json", hf_config)
    num_layers = BertConfig.from_hf(folder / "config.json").num_layers
    pooler = load_unused(base.transformer, KEY_TABLE, "pooler.")
    save_weights(folder / WEIGHTS_NAME, KEY_TABLE, num_layers, params, pooler)
    _write_tokenizer(base.transformer, folder, max_seq_length(student))
    _write_modules(student, folder, base.lower_case)


def _write_tokenizer(base: Path, folder: Path, max_length: int) -> None:
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    tokenizer = read_json(base / "tokenizer.json")
    truncation = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
    tokenizer["truncation"] = truncation | {"max_length": max_length}
    if tokenizer.get("padding"):
        tokenizer["padding"]["strategy"] = "BatchLongest"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    path = base / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    for key in ("auto_map", "name_or_path"):
        config.pop(key, None)
    write_json(folder / "tokenizer_config.json", config | {"model_max_length": max_length})


def _write_modules(student: Student, folder: Path, lower_case: bool) -> None:
    """Write what sentence-transformers reads, in the long-standing form that every server knows."""
    config = student.config
    names = MODULES if config.normalize else MODULES[:2]
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", "utf-8")
    pooling: dict[str, Any] = {"word_embedding_dimension": student.embedding_size}
    pooling |= {key: mode == config.pooling for mode, key in POOLING_KEYS.items()}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": max_seq_length(student), "do_lower_case": lower_case},
    )
    prompts = {"query": config.query_prompt}
    prompts |= dict.fromkeys(("passage", "document"), config.passage_prompt)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if config.normalize else "dot",
        },
    )


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`; it takes its place if all goes well, and else is removed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except BaseException:
            if old.exists():
                os.rename(old, folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check(student: Student, params: Params, folder: Path, texts: Sequence[str]) -> None:
    """Check that embeddings of the model in memory and of the model read back agree.

    Raises:
      UserError: they differ in direction or in length.
    """
    assert texts, "nothing to check with"
    queries, passages = list(texts[::2]), list(texts[1::2])
    config = student.config
    prompted = [config.query_prompt + text for text in queries]
    prompted += [config.passage_prompt + text for text in passages]
    ours = _embed(student, params, prompted)
    if _has_sentence_transformers():
        reader = "sentence-transformers"
        theirs = _embed_by_sentence_transformers(folder, queries, passages)
    else:
        reader = "ldx"
        back = load_student(folder)
        prompted = [back.config.query_prompt + text for text in queries]
        prompted += [back.config.passage_prompt + text for text in passages]
        theirs = _embed(back, back.params, prompted)
    norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(axis=1) / (norms[0] * norms[1])
    same_length = np.abs(norms[0] / norms[1] - 1) <= 1 - MIN_COSINE
    if not ((cosine >= MIN_COSINE) & same_length).all():
        raise UserError(
            f"{folder.name}: the export does not embed as the trained model does (read back by "
            f"{reader}: least cosine {cosine.min():.6f} over {len(texts)} texts, wanted "
            f"{MIN_COSINE}); nothing was written"
        )
    logging.info(
        "%d texts embedded by ldx and by %s from the export: cosine at least %.6f",
        len(texts),
        reader,
        cosine.min(),
    )


def _embed(student: Student, params: Params, texts: Sequence[str]) -> np.ndarray:
    """Embeddings float32 [len(texts), D] on one device; texts are cut as the export cuts them."""
    ids = student.tokenizer.encode(texts)
    num_special = len(student.tokenizer.prefix) + len(student.tokenizer.suffix)
    max_length = max_seq_length(student)
    padded_length = min(max_length, max(len(x) for x in ids) + num_special)
    embed = jax.jit(student.embed)
    params = jax.tree.map(jnp.asarray, params)
    parts = []
    for start in range(0, len(ids), CHECK_ROWS):
        batch = pad_tokens(
            ids[start : start + CHECK_ROWS],
            student.tokenizer,
            max_length=max_length,
            padded_length=padded_length,
            num_rows=CHECK_ROWS,
        )
        parts.append(np.asarray(embed(params, *batch), np.float32))
    return np.concatenate(parts)[: len(texts)]


def _has_sentence_transformers() -> bool:
    """Whether sentence-transformers is there and can be imported."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return False
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        logging.warning("sentence-transformers is installed but cannot be imported: %s", error)
        return False
    return True


def _embed_by_sentence_transformers(
    folder: Path, queries: list[str], passages: list[str]
) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    parts = [
        model.encode(texts, prompt_name=name, show_progress_bar=False)
        for name, texts in (("query", queries), ("document", passages))
        if texts
    ]
    return np.concatenate(parts)
