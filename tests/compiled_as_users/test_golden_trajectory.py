"""The reference's optimisation steps, step by step."""

import gzip
import json

import numpy as np
import pytest

from ldx.data.lists import BatchSize, ListTable
from ldx.data.plan import BatchPlanner
from ldx.data.tokens import TokensInMemory
from ldx.parallel.mesh import make_mesh
from ldx.records.schema import ListRecord
from ldx.step.objective import make_objective
from ldx.step.optim import OptimConfig, make_optimizer
from ldx.step.train_step import TrainStep
from tests.step.step_problems import PLENTY


@pytest.mark.golden
@pytest.mark.parametrize(
    "activation_bytes",
    [
        pytest.param(0, id="computed again", marks=pytest.mark.slow),
        pytest.param(PLENTY, id="kept"),  # as by default, where they fit
    ],
)
def test_golden_trajectory(golden_dir, minilm, activation_bytes):
    """Four AdamW steps of CADET's trainer on real text, through micro-batches and embed-once."""
    from ldx.models.student import load_student
    from ldx.retrieval.encoder import Encoder

    golden = json.loads(gzip.decompress((golden_dir / "trajectory.json.gz").read_bytes()))
    arrays = np.load(golden_dir / "trajectory.npz")
    student = load_student(
        str(minilm),
        query_max_length=golden["query_max_length"],
        passage_max_length=golden["passage_max_length"],
    )
    mesh = make_mesh(1)
    encoder = Encoder(student, mesh=mesh, microbatch_tokens=2048)
    probes = golden["probe_texts"]
    before, after = arrays["embeddings_before"], arrays["embeddings_after"]
    np.testing.assert_allclose(
        encoder.encode(student.params, probes, kind="passage"), before, atol=1e-5
    )
    objective = make_objective(
        {
            "listwise_kl": {
                "weight": 1.0,
                "student_temperature": golden["student_temperature"],
                "teacher_temperature": golden["teacher_temperature"],
            },
            "info_nce": {
                "weight": golden["contrastive_weight"],
                "temperature": golden["contrastive_temperature"],
                "false_negative_ratio": golden["false_negative_ratio"],
            },
        }
    )
    settings = golden["optimizer"]
    names = ("learning_rate", "weight_decay", "b1", "b2", "eps", "schedule")
    config = OptimConfig(
        **{name: settings[name] for name in names},
        clip_norm=settings["clip_global_norm"],
        warmup_steps=0,
    )
    optimizer = make_optimizer(config, len(golden["steps"]))
    state, step = None, None
    for lists, expected, num_distinct in zip(
        golden["steps"], golden["losses"], golden["unique_passages_per_step"], strict=True
    ):
        records, texts = golden_records(lists)
        queries: dict[str, int] = {}
        table = ListTable.read(records, queries)
        planner = BatchPlanner(
            TokensInMemory(student.tokenizer.encode(texts)),
            TokensInMemory(student.tokenizer.encode(list(queries))),
            student.tokenizer,
            query_max_length=golden["query_max_length"],
            passage_max_length=golden["passage_max_length"],
            shapes=encoder.shapes,
            size=BatchSize(16, 6, 96),
        )
        if step is None:
            rows = planner.buffer_rows
            step = TrainStep(
                encoder.embedder,
                objective,
                optimizer,
                buffer_rows=rows,
                activation_bytes=activation_bytes,
            )
            state = step.init(student.params)
        plan = planner(table, np.arange(len(table)))
        assert plan.num_distinct_passages == num_distinct
        assert len(plan.token_batches) > 1
        state, result = step(state, plan)
        metrics = result.metrics()
        np.testing.assert_allclose(metrics["listwise_kl"], expected["listwise"], rtol=1e-3)
        np.testing.assert_allclose(metrics["info_nce"], expected["contrastive"], rtol=1e-3)
    final = encoder.encode(state.params, probes, kind="passage")
    np.testing.assert_allclose(final, after, atol=2e-4)


def golden_records(lists):
    row_of, texts, records = {}, [], []
    for i, item in enumerate(lists):
        for name, text in zip(item["doc_ids"], item["passages"], strict=True):
            if name not in row_of:
                row_of[name] = len(texts)
                texts.append(text)
        size = len(item["doc_ids"])
        records.append(
            ListRecord(
                list_id=str(i),
                query_id=str(i),
                query=item["query"],
                query_type="",
                source="",
                source_row=-1,
                rows=np.array([row_of[name] for name in item["doc_ids"]]),
                labels=np.full(size, -1, np.int32),
                teacher_scores=np.array(item["teacher_scores"], np.float32),
                raw_scores=np.zeros(0, np.float32),
                order_key=0,
            )
        )
    return records, texts
