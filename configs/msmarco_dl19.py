"""Scores of real cross-encoders in files, as teachers: TREC Deep Learning 2019, 43 queries.

ROOT is a folder in BEIR layout whose judgments are qrels/test.tsv. About two in five of its queries
are left out of training and measured before and after it; another seed leaves out others.

    python -m data_prep.run --config=configs/msmarco_dl19.py --workdir=DIR --config.data.root=ROOT \
        --config.prep.retrievers.run.path=ROOT/teacher_runs/idst_bert_p1.tsv.gz \
        --config.prep.teachers.bert.path=ROOT/teacher_runs/idst_bert_p1.tsv.gz \
        --config.prep.teachers.other.path=ROOT/teacher_runs/p_bert.tsv.gz --config.seed=0
    python -m ldx.train --config=configs/msmarco_dl19.py --workdir=DIR --config.data.root=ROOT \
        --config.seed=0

One run of BERT names the candidates; two runs score them, and their scores are fused by the mean.
It takes seven minutes on two CPU cores; docs/results.md has the results.
"""

from ml_collections import ConfigDict

from configs import base, recipes


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with teachers' runs; arg "smoke" runs two minutes on local data instead."""
    recipes.check_arg(arg)
    config = base.get_config()
    config.data.root = "data/msmarco_dl19"
    config.model.passage_max_length = 128
    # The collection has only this split, so dev_fraction leaves some of its queries out of
    # training, and there is no report on it.
    config.prep.queries = "human"
    config.prep.human_split = "test"
    config.eval.split = ""
    config.prep.num_held_out = 0
    config.prep.retrievers = ConfigDict({"run": {"kind": "run", "path": ""}})
    config.prep.teachers = ConfigDict(
        {
            "bert": {"kind": "run_file", "path": "", "scores": "probability"},
            "other": {"kind": "run_file", "path": "", "scores": "log_probability"},
        }
    )
    config.prep.list_size = 16
    config.prep.dev_fraction = 0.4
    config.prep.min_top_score_percentile = None
    # At 0.3 the targets are flat: the divergence falls, but the order of passages stays.
    recipes.use_calibration(config, "percentile", teacher_temperature=0.1)
    config.loss.info_nce.weight = 0.0
    config.data.batch_size = 8
    config.data.list_size = 24
    config.optim.learning_rate = 2e-5
    config.train.num_steps = 16
    config.train.eval_every = 16  # only the last step, so the queries left out choose no step
    config.train.stop_on = None
    config.train.select_by = "loss"
    config.train.dev_pool = 3000
    return recipes.apply_smoke(config) if arg == "smoke" else config
