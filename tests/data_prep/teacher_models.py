"""Tiny random models with tokenizers of their own, and pairs for them to score.

Heads have 32 dimensions, the fewest that vLLM takes on a CPU.
"""

import json
from pathlib import Path

import numpy as np

from data_prep.teachers import Pairs
from tests.tiny_bert import write_bert

WORDS = """the of in and to is for solve solver matrix linear banded system array sum mean cell
protein blood drug trial random sample sort index wing lift drag flow air heat plate""".split()  # noqa: SIM905
PROMPT_WORDS = ["Query:", "Document:", "Relevant:", "true", "false", "yes", "no", "Yes", "No"]


def random_pairs(num_pairs: int, seed: int = 0, longest: int = 60) -> Pairs:
    """Pairs of random words, some of them longer than the tests' max_length."""
    rng = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))

    return Pairs(
        query_ids=[f"q{i // 4}" for i in range(num_pairs)],
        queries=[text(8) for _ in range(num_pairs)],
        doc_ids=[f"d{i}" for i in range(num_pairs)],
        passages=[text(longest) for _ in range(num_pairs)],
    )


def make_bert(folder: Path, num_labels: int) -> Path:
    """A sequence classifier of two layers."""
    return write_bert(
        folder,
        WORDS,
        head="BertForSequenceClassification",
        seed=num_labels,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=num_labels,
        initializer_range=0.2,
    )


def make_t5(folder: Path) -> Path:
    """A T5 of two layers, whose tokenizer knows <extra_id_10>, true and false."""
    import torch
    import transformers

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in [*WORDS, *PROMPT_WORDS]]
    pieces += [(chr(c), -3.0) for c in range(ord("a"), ord("z") + 1)]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    tokenizer = transformers.T5Tokenizer(vocab=pieces)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_bpe_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer in which yes, no, Yes and No are single tokens; its size."""
    import tokenizers
    import transformers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<bos>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [" ".join(WORDS), *[f"{word}\n" * 20 for word in ("yes", "no", "Yes", "No")]]
    model.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        bos_token="<bos>",
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def make_language_model(folder: Path, family: str = "Qwen3") -> Path:
    """A causal language model of two layers of the family Qwen3, Llama or Gemma."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=save_bpe_tokenizer(folder),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=8192,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    return folder


def make_gpt2(folder: Path) -> Path:
    """A causal language model of two layers with learned positions."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.GPT2Config(
        vocab_size=save_bpe_tokenizer(folder),
        n_positions=1024,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def make_layerwise(folder: Path) -> Path:
    """A model of five layers in the form of bge-reranker-v2.5-gemma2-lightweight."""
    import torch
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.Gemma2Config(
        vocab_size=save_bpe_tokenizer(folder),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=16,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.Gemma2Model(config)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i in range(4):
        tensors[f"lm_head.{i}.linear_head.weight"] = torch.randn(1, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_dict() | {
        "model_type": "cost_wise_gemma",
        "architectures": ["CostWiseGemmaForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "gemma_model.CostWiseGemmaForCausalLM"},
        "layer_wise": True,
        "start_layer": 2,
        "layer_sep": 1,
    }
    (folder / "config.json").write_text(json.dumps(values))
    return folder
