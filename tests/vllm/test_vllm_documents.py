"""Passages that vLLM writes, through data_prep/generate_documents.py, beside transformers' own."""

import pytest
from ml_collections import ConfigDict

from configs import base
from data_prep.documents.prompt import load_document_prompt
from data_prep.documents.written import DocumentTask
from data_prep.engines.shards import read_json_lines
from data_prep.generate_documents import STAGE, queries_with_documents
from data_prep.llm import asking
from data_prep.pipeline.workspace import open_workspace
from data_prep.queries.query import QUERIES_NAME, Query, load_queries, write_prepared_queries
from ldx.common.errors import UserError
from tests.vllm.models import CORPUS, make_llama

PROMPT = """
version = 1
language = "en"
few_shot = 0
template = "Query: {query}\\n{levels}"
level_template = "{level} {name} {meaning} {length} {style} {difficulty}"
lengths = ["short", "long"]
styles = ["a letter", "a report"]
difficulties = ["children", "experts"]

[[levels]]
level = 1
name = "good"
meaning = "helps"

[[levels]]
level = 0
name = "bad"
meaning = "does not help"

[sampling]
temperature = 0.0
max_tokens = 20
"""


@pytest.fixture
def workspace(tmp_path):
    """Queries, and a model of random weights that nobody taught to write passages."""
    (tmp_path / "two_levels.toml").write_text(PROMPT)
    config = base.get_config()
    config.prep.document_prompt = str(tmp_path / "two_levels.toml")
    config.prep.llm.backend = "vllm"
    config.prep.llm.model = str(make_llama(tmp_path / "llama"))
    config.prep.llm.engine_args = ConfigDict(
        {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
    )
    config.prep.shard_size = 5
    config.prep.max_attempts = 2
    workspace = open_workspace(config, tmp_path / "work")
    queries = [
        Query(f"q{i}", "human", f"which solver {i} is {word}", -1, "", {0: 1}, "d0")
        for i, word in enumerate(f"{a} {b}" for a in CORPUS[0].split() for b in ("fast", "thin"))
    ]
    write_prepared_queries(workspace.prep / QUERIES_NAME, queries)
    return workspace


def greedy(folder, requests):
    """Answers by transformers' own chat template and generation."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for request in requests:
        ids = tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        output = model.generate(ids, max_new_tokens=request.sampling.max_tokens, do_sample=False)
        yield tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_answers_are_those_of_transformers_and_are_kept(workspace, monkeypatch):
    config = workspace.config
    with pytest.raises(UserError, match=r"no passages: of \d+ queries none"):
        STAGE.run(workspace)
    queries = queries_with_documents(load_queries(workspace))
    prompt = load_document_prompt(config.prep.document_prompt)
    paths = sorted((workspace.prep / "document_answers").glob("documents-*.jsonl"))
    lines = [line for path in paths for line in read_json_lines(path)]
    assert len(lines) == 2 * len(queries) > 20
    at_first = (path for path in paths if "again" not in path.name)
    first = {line["query_id"]: line for path in at_first for line in read_json_lines(path)}
    task = DocumentTask(prompt, config.seed, "", queries)
    requests = task.requests(task.payload("documents", range(len(queries)), attempt=0))
    expected = greedy(config.prep.llm.model, requests)
    for query, text in zip(queries, expected, strict=True):
        assert first[query.query_id]["text"].rstrip("\ufffd") == text.rstrip("\ufffd")
    assert len({line["text"] for line in lines}) > len(queries) / 2

    monkeypatch.setattr(asking, "make_llm", lambda config: pytest.fail("asked again"))
    with pytest.raises(UserError, match="no passages"):
        STAGE.run(workspace)
