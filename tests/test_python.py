"""ldx from Python: light to import, commands as functions, the examples of docs/python.md."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import ldx
from data_prep.pipeline.config_file import save_config
from data_prep.pipeline.order import GRADED_STAGES, STAGES
from data_prep.pipeline.workspace import config_fingerprint, open_workspace
from ldx.common.callable_module import CallableModule
from ldx.common.configs import NO_CONFIGS

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(
    path for path in (ROOT / "configs").glob("*.py") if path.name not in NO_CONFIGS
)


def run_python(code):
    """The output of a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_import_ldx_is_light():
    heavy = "{'jax', 'numpy', 'torch', 'tensorflow', 'orbax', 'flax', 'absl', 'ml_collections'}"
    code = f"import sys, ldx; dir(ldx); ldx.UserError; print({heavy} & set(sys.modules))"
    assert run_python(code) == "set()\n"


def test_stages_start_without_what_takes_seconds_to_import():
    """They load JAX with the first model, and scipy.stats with the first ranks."""
    stages = ", ".join(f"data_prep.{name}" for name in {*STAGES, *GRADED_STAGES})
    heavy = "{'jax', 'flax', 'torch', 'tensorflow', 'scipy.stats', 'ray'}"
    code = f"import sys, data_prep.run, {stages}; print({heavy} & set(sys.modules))"
    assert run_python(code) == "set()\n"


def test_all_commands_can_be_imported_into_one_process():
    code = "import ldx.train, ldx.study, ldx.evaluate, ldx.export, ldx.search, data_prep.run"
    assert run_python(code) == ""


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_a_command_is_a_function_however_it_is_imported(name):
    module = sys.modules.get(f"ldx.{name}") or getattr(ldx, name)
    assert getattr(ldx, name) is module
    assert isinstance(module, CallableModule)
    with pytest.raises(TypeError, match=f"{name}\\(\\) missing"):
        module()


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        _ = ldx.tran


def test_mistakes_are_user_errors(tmp_path):
    with pytest.raises(ldx.UserError, match=r"no such file; did you mean configs/demo\.py"):
        ldx.train("configs/dmeo.py", tmp_path)
    with pytest.raises(ldx.UserError, match=r"configs/demo\.py:smok: no variant 'smok'"):
        ldx.train("configs/demo.py:smok", tmp_path)
    with pytest.raises(ldx.UserError, match=r"config\.seed is missing"):
        ldx.train({"model": {}}, tmp_path)
    with pytest.raises(ldx.UserError, match="this config is a study"):
        ldx.train("configs/studies/teachers.py:smoke", tmp_path)
    config = ldx.load_config("configs/demo.py")
    with pytest.raises(ldx.UserError, match=r"data_prep\.run"):
        ldx.train(config, tmp_path)
    with pytest.raises(ldx.UserError, match="no such"):
        ldx.load(tmp_path / "nowhere")
    with pytest.raises(ldx.UserError, match=r"no such file"):
        ldx.export(tmp_path, tmp_path / "export")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for name, path, call in (
        ("workdir", file, lambda: ldx.prepare("configs/demo.py", file)),
        ("workdir", file / "x", lambda: ldx.train("configs/demo.py", file / "x")),
        ("workdir", file, lambda: ldx.export(file, tmp_path / "export")),
        ("output", file, lambda: ldx.export(tmp_path, file)),
        ("output", file, lambda: ldx.evaluate("absent", run="absent", output=file)),
    ):
        with pytest.raises(ldx.UserError, match=f"^{name}={path}.* is a file; wanted a folder"):
            call()


def code_blocks(page):
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_the_page_run(tiny_bert, tmp_path):
    """As a notebook would run them, with a tiny random model, in another folder."""
    code = "\n".join(code_blocks(ROOT / "docs" / "python.md"))
    assert "runs/notebook" in code
    code = code.replace("runs/notebook", str(tmp_path / "run"))
    marker = "config.prep.max_passages = 100\n"
    assert marker in code
    code = code.replace(
        marker,
        f"{marker}config.model.path = {str(tiny_bert)!r}\n"
        "config.train.num_steps = config.train.eval_every = 2\n"
        "config.train.bucket_lengths = (64,)\n",  # one program of each kind to compile
    )
    names: dict[str, object] = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    run, report, hits = names["run"], names["report"], names["hits"]
    assert isinstance(run, ldx.RunResult)
    assert run.verdict.status in run.text
    assert run.page.is_file()
    assert run.report.read_text(encoding="utf-8") == str(run)
    best = "trained" if run.verdict.step else "base"
    assert report.metrics["nDCG@10"] == pytest.approx(run.results[best]["nDCG@10"], abs=1e-6)
    assert {hit.doc_id for hit in hits} == {"a", "b"}
    assert len(names["many"]) == 2
    again = ldx.train(names["config"], tmp_path / "run")
    assert (again.text, again.results, again.verdict) == (run.text, run.results, run.verdict)
    with pytest.raises(ldx.UserError, match="the run has not ended"):
        str(ldx.RunResult(tmp_path))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_a_config_handed_to_stages_has_the_same_fingerprints(path, tmp_path):
    config = ldx.load_config(path)
    name, _, argument = save_config(config, tmp_path).partition(":")
    handed = runpy.run_path(name)["get_config"](argument)
    keys = tuple(config.to_dict())
    prints = [config_fingerprint(open_workspace(each, tmp_path), keys) for each in (config, handed)]
    assert prints[0] == prints[1]
