"""How a run ends: what is there is not made again, and what a kill leaves is gone on with."""

import json
import shutil

import numpy as np
import pytest

from ldx.common.interrupt import Interrupted
from tests.report.hostile_run import SECTIONS, Page, copy_without, make


def test_a_finished_page_is_left_alone_and_a_missing_one_is_made(finished, tmp_path):
    workdir = copy_without(finished, tmp_path)
    before = (workdir / "report" / "index.html").stat().st_mtime_ns
    made = make(workdir)
    assert made.stat().st_mtime_ns == before
    made.unlink()
    scores = (workdir / "report" / "dev_scores.npz").stat().st_mtime_ns
    make(workdir)
    assert made.read_bytes() == (finished / "report" / "index.html").read_bytes()
    assert (workdir / "report" / "dev_scores.npz").stat().st_mtime_ns == scores
    assert (workdir / "report.txt").read_bytes() == (finished / "report.txt").read_bytes()


def test_a_kill_while_dev_lists_are_scored(finished, tmp_path):
    names = ("index.html", "dev_scores.npz", "curves.png")
    workdir = copy_without(
        finished, tmp_path, "report.txt", "results.json", *(f"report/{n}" for n in names)
    )
    shutil.rmtree(workdir / "embeddings")

    def check():
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        make(workdir, check=check)
    for name in ("report.txt", "results.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes()
    assert not (workdir / "report" / "index.html").exists()
    make(workdir)
    assert [x for x in Page(workdir / "report" / "index.html").titles if x] == SECTIONS
    assert (workdir / "report" / "curves.png").stat().st_size > 10_000


def test_where_the_base_model_is_kept_nothing_is_computed_twice(finished, tmp_path):
    names = ("report.txt", "results.json", "report/index.html", "report/dev_scores.npz")
    workdir = copy_without(finished, tmp_path, *names)
    progress = json.loads((workdir / "progress.json").read_text())
    (workdir / "progress.json").write_text(json.dumps(progress | {"best_step": 0}))
    page = Page(make(workdir))
    assert "Verdict: base model kept" in page.text
    assert "No query's nDCG@10 changed." in page.text
    with np.load(workdir / "report" / "dev_scores.npz") as stored:
        np.testing.assert_array_equal(stored["scores_trained"], stored["scores_base"])


def test_a_run_of_the_query_tower_embeds_the_passages_once(finished, tmp_path):
    names = ("report.txt", "results.json", "report/index.html", "report/dev_scores.npz")
    workdir = copy_without(finished, tmp_path, *names, "report/base.trec", "report/trained.trec")
    shutil.rmtree(workdir / "embeddings")
    config = json.loads((workdir / "config.json").read_text())
    config["train"]["towers"] = "query"
    make(workdir, config)
    # Base and trained queries of the test and of dev, and the passages once.
    num_texts = sorted(
        sum(len(np.load(keys)) for keys in folder.glob("*.keys.npy"))
        for folder in (workdir / "embeddings").iterdir()
    )
    num_passages = 40
    assert len(num_texts) == 2
    assert num_texts[1] - num_texts[0] >= num_passages
    assert num_texts[0] < num_passages
