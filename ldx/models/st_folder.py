"""What a sentence-transformers folder declares: pooling, normalisation, prompts, maximum length."""

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import read_json, read_object, read_object_if_any
from ldx.models.pooling import POOLINGS

POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
ST_CONFIG_NAME = "config_sentence_transformers.json"
EXPORT_NAME = "ldx_export.json"  # what ldx adds to folders it writes
QUERY_TOWER = "query_encoder"
"""The folder of the queries' tower in an export of two towers, and a model folder by itself."""
PASSAGE_TOWER = "passage_encoder"
"""The folder of the passages' tower, likewise."""
_HARMLESS = ("trust_remote_code", "cache_dir", "local_files_only", "revision", "token")
MODULE_PREFIX = "sentence_transformers.models."  # the long-standing names that every server knows
SUPPORTED = "supported: Transformer, Pooling (mean or cls) and, if wanted, Normalize, in this order"


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a folder says about its model."""

    transformer: Path  # the folder of config.json, weights and tokenizer
    poolings: tuple[str, ...] = ("mean",)
    normalize: bool = True
    query_prompt: str = ""
    passage_prompt: str = ""
    max_length: int | None = None
    query_max_length: int | None = None  # only ldx declares one for each
    passage_max_length: int | None = None
    lower_case: bool = False


def read_st_folder(folder: Path) -> Declared:
    """Read modules.json and what it names; a plain HF folder has none and gets the defaults.

    Raises:
      UserError: a module or a setting is not supported.
    """
    path = folder / "modules.json"
    if not path.is_file():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: not a model folder (no modules.json and no config.json)")
        logging.info("%s: no modules.json: mean pooling, unit norm, no prompts", folder)
        return Declared(folder, max_length=_tokenizer_max_length(folder))
    names, folders = _modules(path)
    if names == ["Router"]:
        read_towers(folder)
        raise UserError(
            f"{folder} has two towers, of queries and of passages, and is read by ldx.load, "
            f"ldx.search and ldx.evaluate; to train, begin with the base model, or with "
            f"{folder / PASSAGE_TOWER}"
        )
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(f"{path}: has the modules {', '.join(names)}; {SUPPORTED}")
    transformer, pooling = folders[:2]
    settings = read_object_if_any(transformer / "sentence_bert_config.json")
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UserError(
            f"{transformer}/sentence_bert_config.json: transformer_task is {task!r}; "
            "supported is 'feature-extraction'"
        )
    for key in ("tokenizer_args", "processor_kwargs", "model_args", "config_args"):
        if others := {k: v for k, v in (settings.get(key) or {}).items() if k not in _HARMLESS}:
            raise UserError(
                f"{transformer}/sentence_bert_config.json: {key} has {', '.join(others)}, which is "
                "not supported"
            )
    query_prompt, passage_prompt = _prompts(folder / ST_CONFIG_NAME)
    own = read_object_if_any(folder / EXPORT_NAME)
    return Declared(
        transformer,
        poolings=_poolings(pooling / "config.json"),
        normalize=len(names) == 3,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        max_length=settings.get("max_seq_length") or _tokenizer_max_length(transformer),
        query_max_length=own.get("query_max_length"),
        passage_max_length=own.get("passage_max_length"),
        lower_case=bool(settings.get("do_lower_case")),
    )


@dataclasses.dataclass(frozen=True)
class DeclaredTowers:
    """What an export of two towers says about them."""

    query: Path  # a folder of its own
    passage: Path
    passage_map: Path | None  # the folder of the module that maps passages' embeddings
    settings: dict[str, Any]  # prompts and maximum lengths, as `load_student` takes them


def tower_modules(folder: str, normalize: bool, has_map: bool = False) -> dict[str, str]:
    """The modules of a model or tower in `folder`: the class of each by its folder, in order."""
    names = ["Transformer", "Pooling"] + ["Dense"] * has_map + ["Normalize"] * normalize
    prefix = f"{folder}/" if folder else ""
    return {f"{prefix}{i}_{name}" if i else folder: name for i, name in enumerate(names)}


def router_config(normalize: bool, has_map: bool) -> dict[str, Any]:
    """The config of the Router of two towers; it refuses a text whose task is not given."""
    query = tower_modules(QUERY_TOWER, normalize)
    passage = tower_modules(PASSAGE_TOWER, normalize, has_map)
    return {
        "types": {path: f"{MODULE_PREFIX}{name}" for path, name in (query | passage).items()},
        "structure": {"query": list(query), "document": list(passage)},
        "parameters": {"default_route": None, "allow_empty_key": False},
    }


def read_towers(folder: Path) -> DeclaredTowers | None:
    """The two towers of a folder that `ldx.export` wrote; None where it is of another form.

    Raises:
      UserError: it has a Router of another kind.
    """
    path = folder / "modules.json"
    if not path.is_file() or _modules(path)[0] != ["Router"]:
        return None
    declared = read_object_if_any(folder / EXPORT_NAME)
    config = read_object_if_any(folder / "router_config.json")
    choices = [(normalize, has_map) for normalize in (True, False) for has_map in (True, False)]
    known = [choice for choice in choices if router_config(*choice) == config]
    if "towers" not in declared or not known:
        raise UserError(
            f"{path}: a Router that ldx.export did not write; give the folder "
            f"of one of its models; {SUPPORTED}"
        )
    normalize, has_map = known[0]
    modules = tower_modules(PASSAGE_TOWER, normalize, has_map)
    maps = [folder / path for path, name in modules.items() if name == "Dense"]
    query_prompt, passage_prompt = _prompts(folder / ST_CONFIG_NAME)
    settings = {"query_prompt": query_prompt, "passage_prompt": passage_prompt}
    settings |= {key: declared[key] for key in ("query_max_length", "passage_max_length")}
    passage_map = maps[0] if maps else None
    return DeclaredTowers(folder / QUERY_TOWER, folder / PASSAGE_TOWER, passage_map, settings)


def is_query_tower(folder: Path) -> bool:
    """Whether a folder is the tower of queries of an export of two towers."""
    return read_object_if_any(folder / EXPORT_NAME).get("tower") == "query"


def declared_pooling(declared: Declared) -> str:
    """The one pooling of a folder.

    Raises:
      UserError: the pooling is neither mean nor cls, or there are several.
    """
    if len(declared.poolings) == 1 and declared.poolings[0] in POOLINGS:
        return declared.poolings[0]
    raise UserError(
        f"{declared.transformer}: its pooling is {' + '.join(declared.poolings) or 'none'}; "
        f"supported: {' or '.join(POOLINGS)} (set one as model.pooling to use it all the same)"
    )


def _modules(path: Path) -> tuple[list[str], list[Path]]:
    """Names and folders of the modules; sentence-transformers has moved its classes over time."""
    modules = read_json(path)
    try:
        types = [module["type"] for module in modules]
        places = [PurePosixPath(module.get("path", "")) for module in modules]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: not a list of modules with type and path") from None
    for kind, place in zip(types, places, strict=True):
        if not kind.startswith("sentence_transformers."):
            raise UserError(f"{path}: module {kind} is code of its own; {SUPPORTED}")
        if place.is_absolute() or ".." in place.parts:
            raise UserError(f"{path}: path {str(place)!r} leads out of the folder")
    return [kind.rpartition(".")[2] for kind in types], [path.parent / place for place in places]


def _poolings(path: Path) -> tuple[str, ...]:
    config = read_object(path)
    if config.get("include_prompt") is False:
        raise UserError(f"{path}: include_prompt=false is not supported")
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return (mode,) if isinstance(mode, str) else tuple(mode)
    return tuple(mode for mode, key in POOLING_KEYS.items() if config.get(key))


def _prompts(path: Path) -> tuple[str, str]:
    """The prompts of queries and passages, by the names of `encode_query` and `encode_document`.

    The default prompt is for `encode` alone, which both replace. sentence-transformers 6.2 takes no
    prompt for passages where the folder has no "document", though its own list goes on with
    "passage" and "corpus"; ldx goes by that list.
    """
    config = read_object_if_any(path)
    if config.get("truncate_dim") is not None:
        raise UserError(
            f"{path}: truncate_dim is {config['truncate_dim']!r}, which is not supported; ldx "
            "trains whole embeddings, and config.loss.matryoshka their first dimensions as well"
        )
    prompts = config.get("prompts") or {}
    passage = (prompts.get(name) for name in ("document", "passage", "corpus"))
    declared = (prompt for prompt in passage if prompt is not None)
    return prompts.get("query") or "", next(declared, "")


def _tokenizer_max_length(folder: Path) -> int | None:
    length = read_object_if_any(folder / "tokenizer_config.json").get("model_max_length")
    return int(length) if isinstance(length, int | float) else None
