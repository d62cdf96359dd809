"""A random BERT of two narrow layers, with a tokenizer of a few words and of letters."""

import string
from collections.abc import Sequence
from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(
    folder: Path,
    words: Sequence[str],
    *,
    characters: str = string.ascii_lowercase,
    head: str = "BertModel",
    seed: int = 0,
    **settings: int | float,
) -> Path:
    """Write a folder as transformers saves it.

    Args:
      folder: is made.
      words: that are tokens; all others are spelled.
      characters: to spell them with.
      head: the class of transformers.
      seed: of the weights.
      **settings: of BertConfig, beside two layers and 128 positions.
    """
    import torch
    import transformers

    vocab = [*SPECIAL, *words]
    vocab += [x for x in characters if x not in vocab] + [f"##{x}" for x in characters]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 128} | settings
    config = transformers.BertConfig(vocab_size=len(vocab), **sizes)
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder
