"""The corpus stage takes what evaluation and training take."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from data_prep import corpus
from ldx.common.errors import UserError
from ldx.data.sources import source_configs
from ldx.eval import beir
from ldx.records.manifest import Manifest
from ldx.records.sets import PassageSet
from ldx.report.final import judged_datasets
from tests.data_prep.toy import make_collection, make_config, run_stages


@pytest.fixture
def root(tmp_path):
    return make_collection(tmp_path / "toy")


def run_stage(root, tiny_bert, workdir, **prep):
    config = make_config(root, tiny_bert)
    config.prep.update(prep)
    return run_stages(config, workdir, ["corpus"])


def edit(root, change):
    path = root / "corpus.jsonl"
    lines = [change(number, line) for number, line in enumerate(path.read_text().splitlines())]
    path.write_text("".join(line + "\n" for line in lines))


def test_titles_without_a_text_are_passages(root, tiny_bert, tmp_path):
    """One in five, as papers without an abstract; the template has the title in it."""

    def cut(number, line):
        return line if number % 5 else json.dumps({**json.loads(line), "text": ""})

    edit(root, cut)
    workspace = run_stage(root, tiny_bert, tmp_path)
    passages = PassageSet(workspace.corpus_records)
    assert [passage.doc_id for passage in passages] == beir.read_corpus(root).doc_ids
    assert not (workspace.prep / "rejects").exists()
    config = make_config(root, tiny_bert)
    config.data.passage_template = "{text}"
    with pytest.raises(UserError, match=r"12 of 60 records .* empty text \(12\)"):
        run_stages(config, tmp_path / "body", ["corpus"])


def test_a_collection_in_parquet_with_other_names(root, tiny_bert, tmp_path):
    plain = beir.load_dataset(root, "test")
    columns = {"doc_id": plain.corpus.doc_ids, "title": plain.corpus.titles}
    columns["body"] = plain.corpus.texts
    (root / "corpus.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "corpus.parquet")
    workspace = run_stage(root, tiny_bert, tmp_path)
    passages = PassageSet(workspace.corpus_records)
    assert [passage.text for passage in passages] == plain.corpus.texts
    assert beir.load_dataset(root, "test").corpus == plain.corpus
    assert "corpus.parquet" in corpus.STAGE.inputs(workspace)


def test_the_report_allows_as_many_bad_rows_as_the_preparation(root, tiny_bert, tmp_path):
    edit(root, lambda number, line: line[:-2] if number in (10, 20, 30) else line)
    with pytest.raises(UserError, match="max_rejects") as error:
        run_stage(root, tiny_bert, tmp_path)
    message = str(error.value)
    assert all(f"corpus.jsonl:{line}: not valid JSON" in message for line in (11, 21, 31))
    assert "rejects/corpus.jsonl" in message
    assert "shard" not in message
    workspace = run_stage(root, tiny_bert, tmp_path, max_rejects=0.1)
    config = workspace.config.to_dict()
    sources = source_configs(config["data"], tmp_path)
    manifest = Manifest(
        collection="toy",
        num_passages=57,
        num_lists={},
        fingerprints={},
        passage_template="{title} {text}",
        max_chars=None,
        teachers=[],
        seed=0,
    )
    [judged] = judged_datasets(tmp_path, config, sources, {"": manifest}).values()
    assert len(judged.dataset.corpus) == len(PassageSet(workspace.corpus_records)) == 57
    config["prep"]["max_rejects"] = 0.01
    with pytest.raises(UserError, match=r"3 bad row\(s\), more than 0.01 of all"):
        judged_datasets(tmp_path, config, sources, {"": manifest})


@pytest.mark.parametrize(
    ("queries", "is_refused"), [("extractive", True), ("log+extractive", False), ("human", False)]
)
def test_texts_that_no_query_can_be_cut_out_of(root, tiny_bert, tmp_path, queries, is_refused):
    edit(
        root, lambda i, line: json.dumps({**json.loads(line), "title": "", "text": f"矩阵方程{i}"})
    )
    prep = {"queries": queries, "log": "split:train", "drop_near_duplicates": False}
    if is_refused:
        with pytest.raises(UserError, match=r"60 of 60 passages are mainly not in Latin letters"):
            run_stage(root, tiny_bert, tmp_path, **prep)
    else:
        run_stage(root, tiny_bert, tmp_path, **prep)
