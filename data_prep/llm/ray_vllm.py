"""`--engine=ray` with vLLM: Ray Data hands prompts to engines on all GPUs of the cluster.

    shards (here) → read tasks: token ids → Ray's vLLM stage → answers → whole shards (here)

Engines take the prompts of many shards at a time; a shard is done when it has all its answers.
"""

import functools
import json
import logging as std_logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.engines.ray import MAX_DEATHS, RayEngine
from data_prep.engines.ray_cluster import LOGS, has_gpus, sigterm_as_ctrl_c, start_ray
from data_prep.engines.shards import Made, Shard, Worker
from data_prep.llm.base import Answer, Request
from data_prep.llm.ray_tasks import ERROR, Desk, decode, encode, look, read
from data_prep.llm.task import LlmTask
from data_prep.pipeline.llm_settings import LlmConfig
from ldx.common.errors import UserError, listing

BATCH_SIZE = 64
BATCHES_AT_ONCE = 16
"""The batches that an engine works on at once: as many prompts as vLLM takes on a large GPU."""

READS_AT_ONCE = 4
LIGHT = {"num_cpus": 0}
"""The resources of the tasks before and after the engines, which run beside the engines."""

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Environment variables that are set for vLLM unless the user has set them."""


@dataclass(frozen=True)
class RayGeneration:
    """Asks vLLM on a Ray cluster for the answers of shards, as `asking.Asking` does elsewhere.

    Each vLLM engine has the GPUs that tensor_parallel_size and pipeline_parallel_size ask for;
    --ray_gpus has no effect here. The model is a folder that every machine has, or a name on the
    hub.

    Attributes:
      engine: the settings of the Ray cluster.
      llm: the settings of the language model.
      task: the task that makes requests and takes answers.
    """

    engine: RayEngine
    llm: LlmConfig
    task: LlmTask[Any]

    def run(
        self,
        make_worker: Callable[[], Worker],
        shards: Iterable[Shard],
        *,
        num_workers: int,
    ) -> Iterator[tuple[Shard, Made]]:
        """Make shards, in any order; see `data_prep.engines.shards.Engine`.

        Args:
          make_worker: this is not used, because Ray makes the workers.
          shards: the shards to make.
          num_workers: this is not used, for the same reason.

        Raises:
          UserError: the cluster or the model does not exist, or vLLM does not start.
        """
        del make_worker, num_workers
        waiting = list(shards)
        if not waiting:
            return
        start_ray(self.engine.address)
        stage = self._stage(_prepare_machines(self.llm.model), len(waiting))
        source = _Source(waiting, self.task.requests)
        with sigterm_as_ctrl_c(), source:
            for shard, payload, answers in self._answer(source, stage):
                yield shard, self.task.made(payload, answers)

    def _answer(self, source: "_Source", stage: Any) -> Iterator[tuple[Shard, Any, list[Answer]]]:
        from ray.exceptions import RayError

        try:
            for row in stage(source.dataset()).iter_rows():
                finished_shard = source.put(row)
                if finished_shard is not None:
                    yield finished_shard
        except RayError as error:
            if source.error is not None:
                raise source.error from None
            raise UserError(self._why(error, source.names_under_way())) from error
        assert source.is_done, "Ray Data lost rows"

    def _stage(self, folder: str, num_shards: int) -> Any:
        """Ray's processor that turns a dataset of requests into a dataset of answers."""
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        _set_up_ray_data()
        args = {"load_format": "safetensors"} | dict(self.llm.engine_args)
        gpus = args.get("tensor_parallel_size", 1) * args.get("pipeline_parallel_size", 1)
        on_gpus = has_gpus()
        num_engines = min(self.engine.num_actors(gpus if on_gpus else 0), num_shards)
        cpus = {"bundles": [{"CPU": self.engine.cpus}]}
        config = vLLMEngineProcessorConfig(
            model_source=folder,
            engine_kwargs=args | {"trust_remote_code": False},
            placement_group_config=None if on_gpus else cpus,
            concurrency=(num_engines, num_engines),
            batch_size=BATCH_SIZE,
            max_concurrent_batches=BATCHES_AT_ONCE,
            should_continue_on_error=True,
            log_engine_metrics=False,  # these need Ray Serve
            # Ray's own stages would tokenize a chat wrongly: many tokenizers add a second BOS.
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            runtime_env={"env_vars": {k: os.environ.get(k, v) for k, v in QUIET.items()}},
        )
        stage = build_processor(
            config,
            preprocess=functools.partial(encode, folder, dict(self.llm.chat_template_kwargs)),
            postprocess=functools.partial(decode, folder, args.get("generation_config", "auto")),
            preprocess_map_kwargs=LIGHT | {"concurrency": min(READS_AT_ONCE, num_shards)},
            postprocess_map_kwargs=LIGHT,
        )
        # Without this, a prompt that kills its engine would be tried for ever.
        stage.get_stage_by_name("vLLMEngineStage").map_batches_kwargs["max_task_retries"] = (
            MAX_DEATHS - 1
        )
        return stage

    def _why(self, error: Exception, names: list[str]) -> str:
        lines = [line for line in str(error).splitlines() if line.strip()]
        # The traceback comes first; the error begins with the last line that is not indented.
        first = max((i for i, line in enumerate(lines) if line[0] != " "), default=0)
        return (
            f"vLLM on Ray, with the model {self.llm.model} and config.prep.llm.engine_args="
            f"{dict(self.llm.engine_args)}, ended with\n{listing(lines[first:])}\nwhile these "
            f"shards were under way:\n{listing(names)}\n{LOGS}"
        )


class _Source:
    """The shards as the rows of a dataset, and the answers that have come back so far.

    Inside a `with` block, a thread builds each shard when a read task asks for it.
    """

    def __init__(self, shards: Sequence[Shard], requests: Callable[[Any], list[Request]]):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        self._shards, self._requests = shards, requests
        self._payloads: dict[int, Any] = {}
        self._answers: dict[int, dict[int, Answer]] = {}
        self._done: set[int] = set()
        self._thread = threading.Thread(target=self._build, name="prompts", daemon=True)
        self.error: BaseException | None = None
        """The exception that ended the thread which builds shards."""

    @property
    def is_done(self) -> bool:
        return len(self._done) == len(self._shards)

    def __enter__(self) -> "_Source":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.kill(self._desk)

    def dataset(self) -> Any:
        """A Ray dataset of requests, with the shard, the place in it, and the request as JSON."""
        import ray

        return ray.data.read_datasource(
            _datasource(self._desk, [shard.num_units for shard in self._shards]),
            override_num_blocks=len(self._shards),
            concurrency=min(READS_AT_ONCE, len(self._shards)),
            **LIGHT,
        )

    def _build(self) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            while True:
                number: int = ray.get(self._desk.next_request.remote())
                payload = self._payloads[number] = self._shards[number].payload()
                rows = [
                    {"shard": number, "place": place, "request": json.dumps(asdict(request))}
                    for place, request in enumerate(self._requests(payload))
                ]
                ray.get(self._desk.give.remote(number, [ray.put(rows)]))
        except RayError:
            return  # the desk is gone, since the work has ended
        except BaseException as error:
            self.error = error
            ray.kill(self._desk)  # so that the read tasks fail

    def put(self, row: Mapping[str, Any]) -> tuple[Shard, Any, list[Answer]] | None:
        """Take an answer; return its shard, the payload and all answers once these are complete."""
        number = int(row["shard"])
        if number in self._done:
            return None
        answers = self._answers.setdefault(number, {})
        error = str(row[ERROR]).partition(": ")[2] or str(row[ERROR])
        answer = Answer("", "", " ".join(error.split()))
        if not error:
            answer = Answer(str(row["text"]), str(row["finish_reason"]))
        answers[int(row["place"])] = answer
        if len(answers) < self._shards[number].num_units:
            return None
        self._done.add(number)
        del self._answers[number]
        payload = self._payloads.pop(number)
        return self._shards[number], payload, [answers[place] for place in sorted(answers)]

    def names_under_way(self) -> list[str]:
        """The names of the shards that were built and are not done."""
        return [self._shards[number].name for number in sorted(set(self._payloads) - self._done)]


def _set_up_ray_data() -> None:
    """Keep Ray Data's messages in its log files, and let a few engines die at their start."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = MAX_DEATHS - 1
    for name in ("ray", "ray.data"):
        for handler in std_logging.getLogger(name).handlers:
            if not isinstance(handler, std_logging.FileHandler):
                handler.setLevel(std_logging.CRITICAL)


def _datasource(desk: Any, sizes: Sequence[int]) -> Any:
    """A Ray datasource that has one block for each shard."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Shards(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [
                ReadTask(functools.partial(read, desk, i), BlockMetadata(size, None, None))
                for i, size in enumerate(sizes)
            ]

    return Shards()


def _prepare_machines(model: str) -> str:
    """Fetch the model on every machine; return its folder, which is the same on all.

    Raises:
      UserError: a machine cannot get the model, the folders differ, or the model has no chat
        template.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    looks = {
        node["NodeManagerAddress"]: ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False))
        .remote(model)
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")
    }
    results = {address: ray.get(result) for address, result in looks.items()}
    mistakes = [f"{address}: {mistake}" for address, (_, mistake) in results.items() if mistake]
    if mistakes:
        raise UserError(f"machines that cannot run the model:\n{listing(mistakes)}")
    folders = {folder for folder, _ in results.values()}
    if len(folders) > 1:
        lines = [f"{address}: {folder}" for address, (folder, _) in results.items()]
        raise UserError(
            f"{model} is not in the same folder on all machines:\n{listing(lines)}\nSet HF_HOME "
            "to the same folder on all, or copy the model into a folder that all machines have, "
            "and name that folder"
        )
    return folders.pop()
