"""Tiny random models with tokenizers trained on the spot, in the folders that vLLM loads."""

from pathlib import Path

CORPUS = [
    "The banded matrix is stored in diagonal ordered form, upper diagonals first.",
    "The drug slows cell division in mice and has no side effects in the first trial.",
    "What slows cell division? Which solver is fast for banded systems of equations?",
    "Write one question that the passage answers, and nothing else. Passage: Query: Title:",
    "lift and drag of a thin wing in a flow of air, measured at several angles of attack",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
MAX_LENGTH = 4096


def make_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> int:
    """A byte-level BPE tokenizer with a chat template; returns the size of its vocabulary."""
    import tokenizers
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def make_llama(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """A Llama of two layers; heads have 32 dimensions, the fewest that vLLM takes on a CPU."""
    import torch
    import transformers

    vocab_size = make_tokenizer(folder, chat_template)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.3,  # answers depend on the prompt
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
