"""Models of transformers on PyTorch: their folders, their fingerprints, and their loading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_prep.teachers.token_teacher import INPUT_IDS, TokenTeacher
from ldx.common.errors import UserError, listing
from ldx.common.files import fingerprint, read_json
from ldx.models.locate import resolve_model_path
from ldx.models.weights import weight_files

SCORING_VERSION = "1"
"""Incremented when the same files and settings give other scores than before."""

TORCH_DTYPES = ("float32", "bfloat16", "float16")
FILE_SUFFIXES = (".json", ".txt", ".jinja", ".safetensors")
MAX_POSITIONS_OFFSET = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer")
"""Model types whose positions begin after the position of padding."""


class TransformersTeacher(TokenTeacher):
    """A teacher whose model runs in this process, with PyTorch, on one device.

    Args:
      model: a folder; "org/name@REVISION" on the Hugging Face hub; or package:NAME==VERSION.
      decides: text for the fingerprint: the other settings that decide a score.
      max_length: tokens of a pair, special tokens included; the passage is cut.
      dtype: float32, bfloat16 or float16.
      device: a device of PyTorch, such as cuda:1; auto: a GPU where there is one.
      batch_tokens: the most tokens of a batch, padding included.

    Raises:
      UserError: there is no such model, or a setting has a value that cannot be.
    """

    auto_class: ClassVar[str]

    def __init__(
        self,
        model: str,
        decides: str,
        *,
        max_length: int,
        dtype: str,
        device: str,
        batch_tokens: int,
    ):
        check_count("max_length", max_length)
        check_count("batch_tokens", batch_tokens)
        check_dtype(dtype)
        super().__init__(batch_tokens)
        self.folder = model_folder(model)
        self.max_length = max_length
        self.fingerprint = teacher_fingerprint(
            self.folder, type(self).__name__, decides, str(max_length), dtype
        )
        self._dtype, self._device_name = dtype, device
        self._model: Any = None

    def load(self) -> None:
        """Load tokenizer and model, unless they are loaded.

        Raises:
          UserError: they cannot be loaded, or do not fit the settings.
        """
        if self._model is not None:
            return
        self.tokenizer = load_tokenizer(self.folder)
        self.device = choose_device(self._device_name)
        model = self.load_model()
        check_positions(model.config, self.max_length, self.folder)
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        self.prepare(model)
        self._model = model.to(self.device)

    def load_model(self) -> Any:
        """Load the model on the CPU."""
        return load_pretrained(self.auto_class, self.folder, self._dtype)

    def prepare(self, model: Any) -> None:
        """Check the settings against a model that was just loaded."""

    def tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Arrays of model input as tensors on the device.

        Raises:
          ValueError: there is a token that the model does not have; on a GPU that would end the
            process.
        """
        import torch

        highest = int(arrays[INPUT_IDS].max())
        if highest >= self._vocab_size:
            raise ValueError(f"token id {highest}, the model has {self._vocab_size} tokens")
        return {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}

    def pad_id(self) -> int:
        """The token id that stands at padding."""
        tokenizer = self.tokenizer
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        return int(next(each for each in ids if each is not None))


def model_folder(model: str) -> Path:
    """The folder of a model that can be loaded without running any code of its own.

    Raises:
      UserError: the model is not there, has no safetensors or no tokenizer.json, or is an adapter.
    """
    folder = resolve_model_path(model)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: an adapter, no whole model; merge it into its base model "
            "(peft: merge_and_unload, then save_pretrained) and give that folder"
        )
    weight_files(folder)
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            make = (
                f'python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
            hint = f"; make it with\n  {make}" if name == "tokenizer.json" else ""
            raise UserError(f"{folder / name}: no such file{hint}")
    return folder


def teacher_fingerprint(folder: Path, *decides: str) -> str:
    """A hash of a model's files, by name and content, and of the settings that decide scores."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in FILE_SUFFIXES)
    files = [part for path in paths for part in (path.name, path)]
    return fingerprint(SCORING_VERSION, *decides, *files)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder from its tokenizer.json.

    Raises:
      UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the libraries raise Exception itself
        raise UserError(
            f"{folder}: its tokenizer cannot be loaded ({_first_line(error)})"
        ) from None
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokenizer is not made from tokenizer.json")
    # Teachers cut texts themselves; the tokenizer would warn of every text over its own limit.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def load_pretrained(auto_class: str, folder: Path, dtype: str, config: Any = None) -> Any:
    """Load a model of transformers on the CPU, ready to score.

    Args:
      auto_class: a class of transformers, such as AutoModelForSequenceClassification.
      folder: the folder with safetensors and config.json.
      dtype: the type of the weights and of the arithmetic.
      config: a config to use instead of config.json.

    Raises:
      UserError: it cannot be loaded, needs code of its own, or lacks weights.
    """
    import torch
    import transformers

    extra = {} if config is None else {"config": config}
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **extra,
        )
    except Exception as error:  # transformers raises errors of every kind, KeyError among them
        raise UserError(_cannot_load(folder, auto_class, error)) from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{folder}: not a whole {type(model).__name__}; its safetensors lack\n"
            f"{listing(missing)}\nIs this the model that was trained to rank?"
        )
    return model.eval()


def float32_linear(linear: Any, rows: Sequence[int] | None = None) -> Any:
    """A copy of a linear layer that computes in float32, whatever the type of its input.

    In bfloat16 a logit near 20 is a multiple of 1/8, and candidates would tie.

    Args:
      linear: the last layer of a model.
      rows: the outputs to keep; None: all.
    """
    import torch

    outputs = slice(None) if rows is None else list(rows)
    weight = linear.weight.detach()[outputs].float()
    bias = None if linear.bias is None else linear.bias.detach()[outputs].float()
    copy = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    copy.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    copy.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    return copy


def choose_device(name: str) -> Any:
    """The PyTorch device of a name; auto is a GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r}: {_first_line(error)}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name!r}: PyTorch sees no GPU here")
    return device


def check_positions(config: Any, max_length: int, folder: Path) -> None:
    """Refuse a max_length that the model has no positions for."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or getattr(config, "position_biased_input", True) is False:
        return
    if config.model_type in MAX_POSITIONS_OFFSET:
        limit -= config.pad_token_id + 1
    if 0 < limit < max_length:
        raise UserError(f"max_length={max_length}: {folder} has positions for {limit} tokens")


def check_dtype(dtype: str) -> None:
    """Refuse an unknown dtype."""
    if dtype not in TORCH_DTYPES:
        raise UserError(f"dtype={dtype!r}: wanted {', '.join(TORCH_DTYPES)}")


def check_count(key: str, value: Any) -> None:
    """Refuse a value that is no whole number over 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value!r}: wanted a whole number of at least 1")


def single_token(tokenizer: Any, word: str) -> int:
    """The token id of a word that is one token.

    Raises:
      UserError: the word is several tokens, or unknown.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        raise UserError(f"{word!r} is not one token of this model's: it becomes {tokens}")
    return int(ids[0])


def _cannot_load(folder: Path, auto_class: str, error: Exception) -> str:
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        return (
            f"{folder}: transformers has no model of type {config.get('model_type')!r} as "
            f"{auto_class}; it ships code of its own (auto_map), and ldx never runs that"
        )
    return f"{folder}: cannot be loaded as {auto_class} ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
