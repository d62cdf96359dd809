"""Export: `python -m ldx.export --workdir=DIR --output=DIR`.

Writes the best checkpoint of a run as a folder for SentenceTransformer(DIR), and for
AutoModel.from_pretrained(DIR) or, of two towers, of the folder of each; it checks that the folder
embeds as the trained model does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from ldx.common import cli
from ldx.common.callable_module import make_callable
from ldx.common.errors import UserError, WorseModelError
from ldx.common.files import folder_path, read_json
from ldx.data.sources import source_configs
from ldx.eval.report import read_results
from ldx.models.card import base_name, model_card
from ldx.models.save import check_student_folder, save_towers
from ldx.models.st_folder import PASSAGE_TOWER, QUERY_TOWER, read_towers
from ldx.models.towers import passage_fingerprint
from ldx.records.manifest import Manifest
from ldx.records.schema import HUMAN_DEV
from ldx.records.sets import PassageSet, PassageTexts
from ldx.retrieval.retrieve import DEFAULT_TEMPLATE
from ldx.training.checkpoint import Progress, is_workdir, no_checkpoint
from ldx.training.model import best_towers, declared_template, run_student
from ldx.training.settings import CONFIG_NAME, Criterion
from ldx.training.variants import formula, read_tried
from ldx.training.verdict import Status, Verdict, judge

NUM_CHECK_TEXTS = 100


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("workdir", None, "Folder of a run of ldx.train")
    flags.DEFINE_bool("force", False, "Export a model that dev says is worse than the base model")
    flags.DEFINE_string("output", None, "Folder to write: absent, empty, or an earlier export")


def main(argv: list[str]) -> None:
    """Export the best parameters of a run, and say how to load them."""
    cli.refuse_arguments(argv)
    workdir, output = cli.required_folder("workdir"), cli.required_folder("output")
    progress = _export(workdir, output, flags.FLAGS.force)
    if not progress.finished:
        print(f"Training has not ended (step {progress.step}): this is the best step so far.")
    print(_how_to_load(output))


def _how_to_load(output: Path) -> str:
    lines = [
        f"The model is in {output}; load it with",
        f'  SentenceTransformer("{output}")    # pip install sentence-transformers',
        f'  python -m ldx.search --model={output} --corpus=FILE_OR_BEIR_DIR "a query"',
    ]
    if towers := read_towers(output):
        index = "is multiplied by its passage map" if towers.passage_map else "stays as it is"
        lines += [
            "It has two towers: encode_query is for queries, encode_document for passages.",
            f"An index that the base model made {index}. For vLLM and others,",
            f"{output}/{QUERY_TOWER} embeds queries, and {output}/{PASSAGE_TOWER} passages.",
        ]
    return "\n".join(lines)


def export(workdir: str | Path, output: str | Path, *, force: bool = False) -> Path:
    """Write the best model of a run as a folder that sentence-transformers and vLLM load.

    Args:
      workdir: the folder of a run of `ldx.train`.
      output: the folder to write: absent, empty, or an earlier export.
      force: write a model that dev says is worse than the base model.

    Returns:
      The folder, for `ldx.load`.

    Raises:
      UserError: there is no run, none of its steps was evaluated, or `output` is something else.
      WorseModelError: dev says that the model is worse, and `force` is not given.
    """
    folder = folder_path("output", output)
    _export(folder_path("workdir", workdir), folder, force)
    return folder


def _export(workdir: Path, output: Path, force: bool) -> Progress:
    check_student_folder(output)
    config = _read_config(workdir)
    # The folder is read back in float32, so that is what it is compared with.
    overrides = {"dtype": "float32", "attention": "auto"}
    student, prompts = run_student(workdir, config, overrides)
    if prompts:
        logging.warning("the sources have different prompts; %s", _how_to_prompt(prompts))
    towers, progress = best_towers(workdir, config, student)
    verdict = judge(workdir, progress, config["train"]["select_by"])
    _check_verdict(verdict, workdir, progress, force)
    records = [Path(s.records) for s in source_configs(config["data"], workdir).values()]
    manifests = [Manifest.read(folder) for folder in records]
    template = declared_template(workdir)
    facts = {
        **_data_facts(manifests),
        **_run_facts(workdir, config, verdict, manifests),
        "step": progress.best_step,
        "parameters": formula(progress.kept),
        "passage_template": template,
        # The card is for other people, whom this machine's folders do not concern.
        "output": output.name if output.is_absolute() else str(output),
        "prompts": _how_to_prompt(prompts) if prompts else "",
        "has_two_towers": not towers.are_one,
        "has_passage_map": towers.passage_map is not None,
    }
    declared = {
        "passage_fingerprint": passage_fingerprint(student, towers, template or DEFAULT_TEMPLATE)
    }
    if not towers.are_one:
        declared["passage_model"] = base_name(config["model"]["path"])
    save_towers(
        student,
        towers,
        output,
        card=model_card(student, facts | declared),
        texts=_check_texts(records[0]),
        passage_template=template,
        facts=declared,
        prompts=_named_prompts(prompts),
    )
    return progress


def _named_prompts(prompts: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The prompts of sources under the names by which sentence-transformers takes them."""
    return {
        f"{source}_{kind}": prompt
        for source, pair in prompts.items()
        for kind, prompt in zip(("query", "passage"), pair, strict=True)
    }


def _how_to_prompt(prompts: Mapping[str, tuple[str, str]]) -> str:
    """How to embed with the prompts of a source."""
    names = ", ".join(_named_prompts(prompts))
    return f"encode(..., prompt_name=NAME) takes those of a source: {names}"


def _read_config(workdir: Path) -> dict[str, Any]:
    path = workdir / CONFIG_NAME
    if not path.is_file() and is_workdir(workdir):
        raise no_checkpoint(workdir)
    if not path.is_file():
        raise UserError(f"{path}: no such file; --workdir is the folder of a run of ldx.train")
    config = read_json(path)
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{path}: not the config of a run of ldx.train")
    return config


def _check_verdict(verdict: Verdict, workdir: Path, progress: Progress, force: bool) -> None:
    """Refuse what would do harm, or nothing.

    Raises:
      UserError: no step was evaluated, which --force does not change.
      WorseModelError: dev says that the model is worse, and --force is not given.
    """
    if verdict.status == Status.UNKNOWN:
        raise UserError(
            f"{workdir}: training has not been evaluated yet (step {progress.step}), so the best "
            "model so far is the base model itself; go on with ldx.train"
        )
    if verdict.status == Status.BASE_KEPT:
        logging.warning("what is exported is the base model, unchanged")
    if verdict.status == Status.WORSE and not force:
        raise WorseModelError(
            f"{verdict.text}; nothing is written, --force exports it all the same"
        )


def _run_facts(
    workdir: Path, config: Mapping[str, Any], verdict: Verdict, manifests: Sequence[Manifest]
) -> dict[str, Any]:
    """What the model card tells of the run."""
    # People's dev queries have no loss, so where each source has some no loss was of these queries.
    has_others = all(m.num_lists.get("dev", {}).get(HUMAN_DEV) for m in manifests)
    flattered = config["train"]["select_by"] == Criterion.NDCG or not has_others
    flattered |= config["train"].get("alpha") == "auto" and bool(read_tried(workdir).alphas)
    return {
        "base": config["model"]["path"],
        "losses": config["loss"],
        "config": config,
        "results": read_results(workdir),
        "verdict": f"{verdict.text}."
        + (" The step was chosen on the same queries." if flattered else ""),
    }


def _data_facts(manifests: Sequence[Manifest]) -> dict[str, Any]:
    num_lists = sum(sum(m.num_lists.get("train", {}).values()) for m in manifests)
    return {
        "collection": ", ".join(m.collection for m in manifests),
        "num_lists": num_lists,
        "provenance": {m.collection: m.provenance() for m in manifests},
    }


def _check_texts(records: Path) -> list[str]:
    """Passages spread over the set."""
    manifest = Manifest.read(records)
    texts = PassageTexts(
        PassageSet(records), template=manifest.passage_template, max_chars=manifest.max_chars
    )
    count = min(NUM_CHECK_TEXTS, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
else:
    make_callable(__name__, export)
