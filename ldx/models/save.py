"""Writing a model as a sentence-transformers folder, checked before it takes its place.

A student that embeds queries and passages alike is a plain folder. Where each has a tower of its
own, the folder holds two plain ones, query_encoder and passage_encoder, and a Router over them,
which asks for `encode_query` or `encode_document`.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.common.types import Params
from ldx.models.bert import KEY_TABLE, BertConfig
from ldx.models.parity import check_export
from ldx.models.st_folder import (
    EXPORT_NAME,
    MODULE_PREFIX,
    PASSAGE_TOWER,
    POOLING_KEYS,
    QUERY_TOWER,
    ST_CONFIG_NAME,
    read_st_folder,
    router_config,
    tower_modules,
)
from ldx.models.student import Kind, Student
from ldx.models.towers import Towers, save_passage_map
from ldx.models.weights import WEIGHTS_NAME, load_unused, save_weights

TOKENIZER_FILES = ("vocab.txt", "special_tokens_map.json", "added_tokens.json")
TASKS = {"query": ("query",), "passage": ("passage", "document")}
"""The names of a prompt in sentence-transformers."""


def save_student(
    student: Student,
    params: Params,
    folder: str | Path,
    *,
    card: str,
    texts: Sequence[str],
    passage_template: str | None,
) -> None:
    """Write one model for queries and passages; see `save_towers`."""
    save_towers(
        student,
        Towers.of(params),
        folder,
        card=card,
        texts=texts,
        passage_template=passage_template,
    )


def save_towers(
    student: Student,
    towers: Towers,
    folder: str | Path,
    *,
    card: str,
    texts: Sequence[str],
    passage_template: str | None,
    facts: Mapping[str, Any] = types.MappingProxyType({}),
    prompts: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Write a folder that SentenceTransformer(DIR) opens.

    AutoModel.from_pretrained opens it too, or, of two towers, the folder of each.

    It is written beside its place and read back, by sentence-transformers where that is installed,
    else by ldx. It takes its place only if the embeddings of `texts` are then those of the student.

    Args:
      student: the model that the parameters belong to.
      towers: the parameters to write.
      folder: the folder to write; absent, empty, or an earlier export, which is replaced.
      card: the text of README.md.
      texts: what the check embeds, every other one as a query.
      passage_template: how title and text became passages; ldx joins them like this by default
        where this model is used. None: it is not recorded.
      facts: what ldx's own file in the folder says besides.
      prompts: further prompts by name, beside those of the student.

    Raises:
      UserError: the folder is something else, or the check fails; nothing is left behind.
    """
    folder = Path(folder)
    check_student_folder(folder)
    config = student.config
    lengths = ("query_max_length", "passage_max_length")
    declared: dict[str, Any] = {key: getattr(config, key) for key in lengths}
    with _replacing(folder) as temporary:
        if towers.are_one:
            towers = Towers.of(jax.device_get(towers.query))
            _write(student, towers.query, temporary)
        else:
            _write_towers(student, towers, temporary)
            declared["towers"] = {"query": QUERY_TOWER, "passage": PASSAGE_TOWER}
        if passage_template is not None:
            declared["passage_template"] = passage_template
        write_json(temporary / EXPORT_NAME, declared | dict(facts))
        _add_prompts(temporary, prompts)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        check_export(student, towers, temporary, texts)


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
    _write_tokenizer(base.transformer, folder, student.config.max_length)
    _write_modules(student, folder, base.lower_case)


def _write_towers(student: Student, towers: Towers, folder: Path) -> None:
    """Write each tower in a folder of its own, and the Router over both."""
    has_map = towers.passage_map is not None
    _write_tower(student, jax.device_get(towers.query), folder / QUERY_TOWER, "query")
    _write_tower(
        student, jax.device_get(towers.passage), folder / PASSAGE_TOWER, "passage", has_map
    )
    if towers.passage_map is not None:
        modules = tower_modules(PASSAGE_TOWER, student.config.normalize, has_map)
        (path,) = (path for path, name in modules.items() if name == "Dense")
        save_passage_map(towers.passage_map, folder / path)
    _write_module_list(folder, {"": "Router"})
    write_json(folder / "router_config.json", router_config(student.config.normalize, has_map))
    _write_prompts(student, folder)


def _write_tower(
    student: Student,
    params: Params,
    folder: Path,
    kind: Kind,
    has_map: bool = False,
) -> None:
    """Write a tower as a model whose texts, where nothing else is said, are of this kind."""
    folder.mkdir()
    _, length = student.config.prompt_and_length(kind)
    config = dataclasses.replace(student.config, query_max_length=length, passage_max_length=length)
    student = dataclasses.replace(student, config=config)
    _write(student, params, folder)
    _write_module_list(folder, tower_modules("", config.normalize, has_map))
    _write_prompts(student, folder, default=TASKS[kind][0])
    write_json(folder / EXPORT_NAME, {"tower": kind})


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
    _write_module_list(folder, tower_modules("", config.normalize))
    pooling: dict[str, Any] = {"word_embedding_dimension": student.embedding_size}
    pooling |= {key: mode == config.pooling for mode, key in POOLING_KEYS.items()}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": student.config.max_length, "do_lower_case": lower_case},
    )
    _write_prompts(student, folder)


def _write_module_list(folder: Path, names: Mapping[str, str]) -> None:
    """Write modules.json; `names` holds the class of each module by its folder."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{MODULE_PREFIX}{name}"}
        for i, (path, name) in enumerate(names.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", "utf-8")


def _write_prompts(student: Student, folder: Path, default: str | None = None) -> None:
    config = student.config
    prompts = dict.fromkeys(TASKS["query"], config.query_prompt)
    prompts |= dict.fromkeys(TASKS["passage"], config.passage_prompt)
    write_json(
        folder / ST_CONFIG_NAME,
        {
            "prompts": prompts,
            "default_prompt_name": default,
            "similarity_fn_name": "cosine" if config.normalize else "dot",
        },
    )


def _add_prompts(folder: Path, prompts: Mapping[str, str]) -> None:
    """Declare further prompts, by the names that `encode(..., prompt_name=NAME)` takes."""
    path = folder / ST_CONFIG_NAME
    config = read_json(path)
    config["prompts"] = {**prompts, **config["prompts"]}
    write_json(path, config)


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
