"""Tests of data_prep/llm/ray_vllm.py: Ray Data's vLLM stage, beside vLLM in this process."""

import functools
import importlib.util
import json
from dataclasses import replace

import pytest

psutil = pytest.importorskip("psutil")
# Not imported before its time, lest it listen to other machines.
if importlib.util.find_spec("vllm") is None or importlib.util.find_spec("ray") is None:
    pytest.skip("vLLM and Ray are needed; make test-vllm", allow_module_level=True)

from data_prep.engines.local import LocalEngine
from data_prep.engines.ray import RayEngine
from data_prep.engines.ray_cluster import start_ray
from data_prep.engines.shards import Shard
from data_prep.llm import ray_vllm
from data_prep.llm.asking import Asking
from data_prep.llm.base import Sampling
from data_prep.llm.ray_vllm import RayGeneration
from data_prep.pipeline.llm_settings import LlmConfig
from data_prep.queries.prompt import load_prompts
from data_prep.queries.written import QueryTask
from ldx.common.errors import UserError
from tests.vllm.models import CORPUS, MAX_LENGTH, make_llama

# Unchunked: of prompts that are worked off in pieces, a CPU cannot draw with a seed.
ARGS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
ARGS |= {"max_num_batched_tokens": 32_768}


def begin_with_bos(folder):
    """Make the tokenizer put <|begin|> before every text, as Llama's does, and the template too."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    begin = {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": begin},
    }
    path.write_text(json.dumps(tokenizer))
    template = folder / "chat_template.jinja"
    template.write_text("<|begin|>" + template.read_text())


def end_often(folder):
    """Raise the odds of <|end|>, so that some answers stop by themselves."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][1] *= 3
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = make_llama(tmp_path_factory.mktemp("models") / "llama")
    begin_with_bos(folder)
    end_often(folder)
    return folder


@pytest.fixture(scope="module")
def task():
    first, second, third = load_prompts(["question", "web_search_few_shot", "title"])
    sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=12)
    prompts = [
        replace(first, sampling=sampling),
        replace(second, sampling=replace(sampling, stop=("a", "th"))),
        replace(third, sampling=replace(sampling, temperature=0.0)),
    ]
    return QueryTask(
        {prompt.query_type: prompt for prompt in prompts},
        3,
        "",
        passages=None,
        passage_set=None,
        rows=(),
    )


@pytest.fixture(scope="module")
def shards(task):
    """Nine shards of all types; one passage is far too long for the model."""
    texts = [f"{CORPUS[i % 5]} {i}" for i in range(20)]
    texts[7] = "0123456789 " * MAX_LENGTH

    def payload(query_type, start):
        places = range(start, min(start + 8, 20))
        return {
            "query_type": query_type,
            "group": query_type,
            "attempt": 0,
            "rows": list(places),
            "asked": [f"key{i}" for i in places],
            "doc_ids": [f"d{i}" for i in places],
            "passages": [texts[i] for i in places],
        }

    return [
        Shard(f"{name}-{start}", "key", min(8, 20 - start), functools.partial(payload, name, start))
        for name in task.prompts
        for start in range(0, 20, 8)
    ]


@pytest.fixture(scope="module")
def cluster():
    start_ray("")
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def small_batches(monkeypatch):
    """An engine has one batch at a time, so that there is a middle."""
    monkeypatch.setattr(ray_vllm, "BATCH_SIZE", 8)
    monkeypatch.setattr(ray_vllm, "BATCHES_AT_ONCE", 1)


def engine_processes():
    """The processes of Ray's vLLM stage, and those that these have started."""
    stages = [p for p in psutil.process_iter() if p.name().startswith("ray::MapWorker")]
    return stages, [child for stage in stages for child in stage.children(recursive=True)]


def read(made):
    return [json.loads(line) for line in made.content.decode().splitlines()]


def test_answers_are_those_of_vllm_in_this_process(cluster, llama, task, shards, small_batches):
    """An engine is killed when the first answers are there."""
    llm = LlmConfig("vllm", str(llama), engine_args=ARGS)
    asking = functools.partial(Asking, llm, task)
    wanted = {s.name: made for s, made in LocalEngine().run(asking, shards, num_workers=1)}
    found, killed = {}, []
    for shard, made in RayGeneration(RayEngine(workers=1), llm, task).run(
        asking, shards, num_workers=1
    ):
        found[shard.name] = made
        if not killed:
            (stage,), killed = engine_processes()
            stage.kill()
    assert killed
    psutil.wait_procs(killed, timeout=60)
    assert not any(process.is_running() for process in killed)
    assert found.keys() == wanted.keys()
    for name, made in wanted.items():
        # Each says in its own words that a prompt is too long.
        assert [a | {"error": ""} for a in read(found[name])] == [
            a | {"error": ""} for a in read(made)
        ]
    for done in (found, wanted):
        answers = [answer for made in done.values() for answer in read(made)]
        assert len({a["text"] for a in answers}) > 20
        assert {a["finish_reason"] for a in answers} == {"stop", "length", ""}
        failed = [f"{a['doc_id']}" for a in answers if str(MAX_LENGTH) in a["error"]]
        assert failed == [f"{a['doc_id']}" for a in answers if a["finish_reason"] == ""]
        assert failed == ["d7"] * 3
        rejects = [reject for made in done.values() for reject in made.rejects]
        assert {r["id"] for r in rejects} == {f"d7 {name}" for name in task.prompts}


def test_an_engine_that_does_not_start(cluster, llama, task, shards):
    llm = LlmConfig("vllm", str(llama), engine_args=ARGS | {"max_model_len": 10 * MAX_LENGTH})
    with pytest.raises(UserError, match=r"ended with\n.*\n.*max_model_len") as caught:
        list(RayGeneration(RayEngine(workers=1), llm, task).run(None, shards, num_workers=1))
    assert "Traceback" not in str(caught.value)


def test_a_model_that_is_not_there_or_cannot_chat(cluster, llama, task, shards, tmp_path):
    def run(folder):
        engine = RayGeneration(RayEngine(), LlmConfig("vllm", str(folder)), task)
        list(engine.run(None, shards, num_workers=1))

    with pytest.raises(UserError, match=r"127\.0\.0\.1: .*nothing: no such folder"):
        run(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no chat template"):
        run(make_llama(tmp_path / "base", chat_template=None))


def test_a_passage_that_cannot_be_read(cluster, llama, task):
    def payload():
        raise UserError("record 7 is corrupted")

    llm = LlmConfig("vllm", str(llama), engine_args=ARGS)
    with pytest.raises(UserError, match=r"^record 7 is corrupted$"):
        list(
            RayGeneration(RayEngine(workers=1), llm, task).run(
                None, [Shard("x", "key", 1, payload)], num_workers=1
            )
        )
