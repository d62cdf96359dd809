"""Weights in safetensors files, read into and written from NNX parameters by one table of names.

Parameters are a nested dict of arrays, as `flax.nnx.to_pure_dict` gives it; the elements of an
`nnx.List` have integer keys. A path is its keys joined by dots: layers.0.attention.query.kernel.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ldx.common.errors import UserError, listing
from ldx.common.files import read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")


class Rule(NamedTuple):
    """The name of a tensor in HF's files and its path in ours; "{i}" stands for every layer."""

    hf_name: str
    path: str
    transpose: bool = False


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """How the tensors of a family of models are named.

    Args:
      rules: a rule for every tensor of the model.
      prefix: what some checkpoints put before every name.
      renames: the usual endings of names, by those of old checkpoints.
      ignored: beginnings of the names of surplus tensors that are no mistake and are not used.
    """

    rules: tuple[Rule, ...]
    prefix: str = ""
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def expand(self, num_layers: int) -> list[Rule]:
        """The rules of a model with `num_layers` layers."""
        expanded = []
        for rule in self.rules:
            numbers = range(num_layers) if "{i}" in rule.path else [0]
            expanded += [
                Rule(rule.hf_name.format(i=i), rule.path.format(i=i), rule.transpose)
                for i in numbers
            ]
        return expanded

    def usual_name(self, name: str) -> str:
        """The name that the rules have for a tensor, given that of a checkpoint."""
        name = name.removeprefix(self.prefix)
        for old, new in self.renames.items():
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name


def flatten(params: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one dict by path."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Parameters by path as a nested dict."""
    params: dict[Any, Any] = {}
    for path, value in flat.items():
        *parents, name = (int(key) if key.isdigit() else key for key in path.split("."))
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = value
    return params


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names.

    Raises:
      UserError: there is none, or a shard is missing.
    """
    folder = Path(folder)
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = folder / INDEX_NAME
    if not index.is_file():
        raise UserError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{index}: has no usable weight_map of tensor names to file names")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{index}: names files that are missing:\n{listing(missing)}")
    return [folder / name for name in names]


def load_weights(
    folder: str | Path, table: KeyTable, num_layers: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read the weights of a folder as float32 arrays by path.

    Args:
      folder: a folder with model.safetensors, or with shards and their index.
      table: the names of the model's family.
      num_layers: how many layers the rules with "{i}" stand for.
      shapes: the parameters' shapes by path.

    Raises:
      UserError: tensors are missing, surplus, misshapen or not finite; all are named.
    """
    rules = {rule.hf_name: rule for rule in table.expand(num_layers)}
    assert {rule.path for rule in rules.values()} == set(shapes), "key table and model differ"
    arrays: dict[str, np.ndarray] = {}
    problems: list[str] = []
    present: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    usual = table.usual_name(name)
                    if usual not in rules:
                        if usual.startswith(table.ignored):
                            logging.debug("%s: %s is not used", file, name)
                        else:
                            problems.append(f"surplus: {name}")
                        continue
                    if usual in present:
                        problems.append(f"twice: {usual} (once as {name})")
                    present.add(usual)
                    rule = rules[usual]
                    array, problem = _read(tensors, name, rule, shapes[rule.path])
                    problems += [problem] if problem else []
                    arrays[rule.path] = array
        except SafetensorError as error:
            raise UserError(f"{file}: damaged safetensors file ({error}); get it again") from None
    problems += [f"missing: {name}" for name in rules if name not in present]
    if problems:
        raise UserError(
            f"{weight_files(folder)[0]}: the weights do not fit config.json beside them:\n"
            f"{listing(sorted(problems))}"
        )
    return arrays


def load_unused(folder: str | Path, table: KeyTable, prefix: str) -> dict[str, np.ndarray]:
    """The tensors of a folder that the model does not use, as float32, by their usual HF names.

    Args:
      folder: a folder with model.safetensors, or with shards and their index.
      table: the names of the model's family.
      prefix: the beginning of the usual names of these tensors.
    """
    unused = {}
    for file in weight_files(folder):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if table.usual_name(name).startswith(prefix):
                    unused[table.usual_name(name)] = tensors.get_tensor(name).astype(np.float32)
    return unused


def save_weights(
    path: str | Path,
    table: KeyTable,
    num_layers: int,
    params: Mapping[Any, Any],
    unused: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write parameters to a safetensors file as float32, under HF's names.

    Args:
      path: the file.
      table: the names of the model's family.
      num_layers: how many layers the rules with "{i}" stand for.
      params: nested parameters.
      unused: further tensors, which are written as they are (`load_unused`).
    """
    flat = flatten(params)
    tensors = dict(unused or {})
    for rule in table.expand(num_layers):
        array = np.asarray(flat.pop(rule.path), np.float32)
        tensors[rule.hf_name] = np.ascontiguousarray(array.T if rule.transpose else array)
    assert not flat, f"not in the key table: {sorted(flat)}"
    # Written here, so that a full disk is an OSError.
    Path(path).write_bytes(save(tensors, metadata={"format": "pt"}))


def _read(
    tensors: Any, name: str, rule: Rule, shape: tuple[int, ...]
) -> tuple[np.ndarray, str | None]:
    """A tensor in the model's layout, and what is wrong with it; None if nothing is."""
    expected = list(reversed(shape)) if rule.transpose else list(shape)
    info = tensors.get_slice(name)
    empty = np.zeros(0, np.float32)
    if info.get_shape() != expected:
        return empty, f"misshapen: {name} is {info.get_shape()}, config.json wants {expected}"
    if info.get_dtype() not in FLOATS:
        return empty, f"not floats: {name} is {info.get_dtype()}; supported: {', '.join(FLOATS)}"
    array = tensors.get_tensor(name).astype(np.float32)
    if not np.isfinite(array).all():
        return empty, f"not finite: {name} has NaN or infinite values"
    return np.ascontiguousarray(array.T) if rule.transpose else array, None


def _no_weights(folder: Path) -> str:
    others: Iterable[Path] = sorted([*folder.glob("*.bin"), *folder.glob("*.h5")])
    names = f"only {', '.join(p.name for p in others)}" if others else "none"
    if (folder / "modules.json").exists():
        code = (
            f"from sentence_transformers import SentenceTransformer as S; S('{folder}').save('NEW')"
        )
    else:
        code = (
            f"from transformers import AutoModel as M, AutoTokenizer as T; "
            f"M.from_pretrained('{folder}').save_pretrained('NEW'); "
            f"T.from_pretrained('{folder}').save_pretrained('NEW')"
        )
    return (
        f"{folder}: has no {WEIGHTS_NAME} ({names}); only safetensors are read. Where PyTorch is "
        f'installed, convert with\n  python -c "{code}"\nand use the folder NEW'
    )
