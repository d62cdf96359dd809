"""A small collection of sentences, and the stages run on it."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from data_prep.pipeline.order import stages_of
from data_prep.pipeline.workspace import Workspace, open_workspace
from ldx.eval import beir

NOUNS = ["matrix", "array", "cell", "protein", "wing", "drag", "sample", "query", "drug", "blood"]
VERBS = ["sorts", "solves", "indexes", "flows into", "sums", "lifts"]


def make_collection(root: Path, num_passages: int = 60) -> Path:
    doc_ids, texts, queries = [], [], {}
    train: beir.Qrels = {}
    test: beir.Qrels = {}
    for i in range(num_passages):
        a, b, c = NOUNS[i % 10], NOUNS[(i // 10 + i + 1) % 10], VERBS[i % 6]
        doc_ids.append(f"d{i}")
        texts.append(
            f"The {a} number{i} {c} the {b} of system{i}. Every {b} has a mean and a random "
            f"index{i} in the passage. A linear {a} is for the banded trial{i} and the air."
        )
        queries[f"q{i}"] = f"which {a} {c} system{i}"
        (train if i % 2 else test)[f"q{i}"] = {f"d{i}": 1, f"d{(i + 1) % num_passages}": 1}
    made = beir.Corpus(doc_ids, [f"title {i}" for i in range(num_passages)], texts)
    beir.write_dataset(root, made, queries, {"train": train, "test": test})
    return root


def make_config(root: Path, model: Path) -> ConfigDict:
    config = base.get_config()
    config.data.root = str(root)
    config.data.passage_template = "{title} {text}"
    config.model.path = str(model)
    config.model.query_max_length = 32
    config.model.passage_max_length = 64
    config.prep.candidate_depth = 20
    config.prep.list_size = 4
    config.prep.num_held_out = 3
    config.prep.dev_fraction = 0.3
    # Without digits every tenth passage begins like another.
    config.prep.keep_digits = True
    return config


def run_stages(config: ConfigDict, workdir: Path, names: Sequence[str] = ()) -> Workspace:
    """Run stages in this process: those named, or all that the config needs."""
    workspace = open_workspace(config, workdir)
    for name in names or stages_of(workspace.settings):
        importlib.import_module(f"data_prep.{name}").STAGE.run(workspace)
    return workspace


def reopened(workspace: Workspace) -> Workspace:
    """The workspace again, after a change of its config."""
    return open_workspace(workspace.config, workspace.workdir, workspace.engine)
