"""Stands in for data_prep.run and ldx.train in tests of studies: quick, and easily killed.

    python tests/studies/study_program.py prepare|train --config=EXPERIMENT.py --workdir=DIR

The trained model finds the relevant passage of the first test queries at once, of as many as
optim.learning_rate * 1000; the base model finds it second.
"""

import json
import shutil
import signal
import sys
import time
from pathlib import Path


def prepare(config: dict, workdir: Path) -> None:
    source = Path(config["data"]["root"]).with_name("records")
    shutil.copytree(source, workdir / "records", dirs_exist_ok=True)
    (workdir / "baselines").mkdir(exist_ok=True)
    (workdir / "baselines" / "bm25.trec").write_text("q0 Q0 d0 1 1.0 bm25\n")
    with open(workdir / "prepared.log", "a") as file:
        file.write(f"{config['seed']}\n")
    if config["prep"]["max_rejects"] == 0.5:
        sys.exit("error: the corpus is broken")


def train(config: dict, workdir: Path) -> None:
    log = workdir / "steps.log"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    for step in range(done, 10):
        while step >= gate(workdir):
            time.sleep(0.02)
        with open(log, "a") as file:
            file.write(f"{step}\n")
    num_good = round(config["optim"]["learning_rate"] * 1000)
    if num_good > 90:
        print("step 1\n\nerror: config.optim.learning_rate is too high", file=sys.stderr)
        sys.exit(2)
    resolved = {**config, "data": {**config["data"], "batch_size": 16}}
    (workdir / "config.json").write_text(json.dumps(resolved))
    report = workdir / "report"
    report.mkdir(exist_ok=True)
    if not (report / "base.trec").exists():
        print("evaluating the base model")
        write_run(report / "base.trec", 0)
        (report / "base.json").write_text("{}")
    write_run(report / "trained.trec", num_good)
    write_dev(workdir, config)


def gate(workdir: Path) -> int:
    """The step that a test lets nobody go beyond."""
    path = workdir.parents[1] / "gate"
    return int(path.read_text()) if path.exists() else 10


def write_run(path: Path, num_good: int) -> None:
    lines = []
    for i in range(10):
        own, other = (2.0, 1.0) if i < num_good else (1.0, 2.0)
        lines += [f"q{i} Q0 d{i} 1 {own} x\n", f"q{i} Q0 d{i + 20} 2 {other} x\n"]
    path.write_text("".join(lines))


def write_dev(workdir: Path, config: dict) -> None:
    (workdir / "dev").mkdir(exist_ok=True)
    for step, value in ((0, 0.5), (10, 0.75)):
        values = {f"list-{i}": value for i in range(48, 60)}
        stored = {"metric": "nDCG@10", "judged_by": "synthetic", "per_query": values}
        (workdir / "dev" / f"{step:06d}.json").write_text(json.dumps(stored))
    progress = {"step": 10, "best_step": 10, "best_ndcg": 0.75, "stop_reason": "all steps done"}
    (workdir / "progress.json").write_text(json.dumps(progress))


def stop(signum: int, frame: object) -> None:
    print(f"saved after signal {signum}", flush=True)
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[2:])
    experiment = Path(flags["config"]).with_suffix(".json")
    action = {"prepare": prepare, "train": train}[sys.argv[1]]
    action(json.loads(experiment.read_text()), Path(flags["workdir"]))
