"""Models by path: a folder, an installed package, or a pinned revision on the Hugging Face hub."""

import importlib.metadata
import re
from pathlib import Path

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import sha256_file
from ldx.models.weights import WEIGHTS_NAME

HUB_PATTERNS = ["*.json", "*.txt", "*.jinja", "tokenizer*", "*.safetensors"]
HUB_IGNORED = ["onnx/*", "openvino/*", "*.bin", "*.py"]

_PACKAGE = re.compile(r"package:(?P<name>[\w.-]+)==(?P<version>[^#]+)(#sha256=(?P<sha>[0-9a-f]+))?")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


def resolve_model_path(path: str | Path) -> Path:
    """The folder that a model path stands for.

    Args:
      path: a folder; "package:NAME==VERSION", an installed package that carries one model, with
        "#sha256=HEX" to check model.safetensors; or "org/name@REVISION" on the hub.

    Raises:
      UserError: there is no such model, or it has another version.
    """
    path = str(path)
    if path.startswith("package:"):
        return _in_package(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if match := _HUB.fullmatch(path):
        return _from_hub(match["name"], match["revision"])
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path):
        raise UserError(
            f"{path}: no such folder. If it is a model on the Hugging Face hub, pin its revision, "
            f"best a commit hash: {path}@REVISION"
        )
    raise UserError(
        f"{path}: no such folder; a model is a folder, org/name@REVISION (hub) or "
        "package:NAME==VERSION (an installed package that carries one)"
    )


def check_model_path(path: str) -> None:
    """Refuse a path that `resolve_model_path` would refuse, as far as no network is needed to know.

    Raises:
      UserError: there is no such model, or it is one of the hub without a revision.
    """
    if not is_on_hub(path):
        resolve_model_path(path)


def is_on_hub(path: str) -> bool:
    """Whether a model path is of the hub: ORG/NAME@REVISION, and no folder of that name."""
    return not Path(path).expanduser().is_dir() and _HUB.fullmatch(path) is not None


def _in_package(path: str) -> Path:
    match = _PACKAGE.fullmatch(path)
    if match is None:
        raise UserError(
            f"{path}: not of the form package:NAME==VERSION or package:NAME==VERSION#sha256=HEX"
        )
    name, version = match["name"], match["version"]
    install = f"pip install --no-deps {name}=={version}"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{path}: the package is not installed; {install}") from None
    if (installed := distribution.version) != version:
        raise UserError(
            f"{path}: version {installed} is installed; write package:{name}=={installed} (with "
            f"its own sha256, or none), or install the other: {install}"
        )
    files = [f for f in distribution.files or [] if f.name == WEIGHTS_NAME]
    folders = [Path(str(distribution.locate_file(f))).parent for f in files]
    if len(folders) != 1:
        raise UserError(
            f"{path}: the package has {len(folders)} folders with {WEIGHTS_NAME}; wanted one"
        )
    weights = folders[0] / WEIGHTS_NAME
    if not weights.is_file():
        raise UserError(f"{weights}: missing; {install} --force-reinstall")
    if match["sha"] and (digest := sha256_file(weights)) != match["sha"]:
        raise UserError(
            f"{weights}: sha256 is {digest}, wanted {match['sha']}; do not use this file. "
            f"{install} --force-reinstall"
        )
    return folders[0]


def _from_hub(name: str, revision: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        logging.warning("%s@%s: a branch or tag can move; a commit hash cannot", name, revision)
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_IGNORED
        )
    except RevisionNotFoundError:
        raise UserError(f"{name}@{revision}: the hub has no such revision of the model") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name}: the hub has no such model, or it asks for a login") from None
    except HFValidationError as error:
        raise UserError(f"{name}@{revision}: not a name on the hub ({error})") from None
    except Exception as error:  # which HTTP library raises changes with the hub's version
        raise UserError(
            f"{name}@{revision}: could not be fetched from the Hugging Face hub, and is not in the "
            f"local cache ({type(error).__name__}: {str(error).splitlines()[0]}).\n"
            "If there is no network, copy the model's folder here and give its path instead"
        ) from None
    return Path(folder)
