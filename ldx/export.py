"""Export: `python -m ldx.export --workdir=DIR --output=DIR`.

Writes the best checkpoint of a run as a folder for SentenceTransformer(DIR) and
AutoModel.from_pretrained(DIR), and checks that the folder embeds as the trained model does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ldx import cli
from ldx.assemble import source_configs
from ldx.checkpoint import best_params, read_progress
from ldx.data.records import Manifest, PassageSource, PassageTexts
from ldx.embedder import Params
from ldx.errors import UserError, WorseModelError
from ldx.eval.model import declared_template
from ldx.files import read_json
from ldx.models.card import model_card
from ldx.models.export import check_output, save_student
from ldx.models.student import Student, load_student
from ldx.verdict import UNKNOWN, WORSE, judge

NUM_CHECK_TEXTS = 100


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("workdir", None, "Folder of a run of ldx.train")
    flags.DEFINE_bool("force", False, "Export a model that dev says is worse than the base model")
    flags.DEFINE_string("output", None, "Folder to write: absent, empty, or an earlier export")


def main(argv: list[str]) -> None:
    """Export the best parameters of a run."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")
    workdir, output = Path(cli.required("workdir")), Path(cli.required("output"))
    check_output(output)
    config = read_json(workdir / "config.json")
    if not isinstance(config, dict) or "model" not in config:
        raise UserError(f"{workdir / 'config.json'}: not the config of a run of ldx.train")
    # The folder is read back in float32, so that is what it is compared with.
    student = load_student(**config["model"] | {"dtype": "float32", "attention": "auto"})
    params, step = best_params(workdir, student.params)
    progress = read_progress(workdir)
    assert progress is not None  # best_params has seen it
    select_by = config["train"]["select_by"]
    verdict = judge(workdir, progress, select_by)
    if verdict.status == UNKNOWN:
        raise UserError(
            f"{workdir}: training has not been evaluated yet (step {progress.step}), so the best "
            "model so far is the base model itself; go on with ldx.train"
        )
    if verdict.status == WORSE and not flags.FLAGS.force:
        raise WorseModelError(
            f"{verdict.text}; nothing is written, --force exports it all the same"
        )
    records = [Path(s.records) for s in source_configs(config["data"], workdir).values()]
    results = workdir / "results.json"
    template = declared_template(str(workdir))
    facts = {
        **_data_facts(records),
        "base": config["model"]["path"],
        "losses": config["loss"],
        "step": step,
        "config": config,
        "results": read_json(results) if results.is_file() else {},
        "passage_template": template,
        "verdict": f"{verdict.text}."
        + (" The step was chosen on the same queries." if select_by == "ndcg" else ""),
        "output": str(output),
    }
    export(
        student,
        params,
        output,
        card_facts=facts,
        texts=_check_texts(records[0]),
        passage_template=template,
    )
    print(verdict.text)
    if not progress.finished:
        print(f"Training has not ended (step {progress.step}): this is the best step so far.")
    print(
        f"The model is in {output}; load it with\n"
        f'  SentenceTransformer("{output}")    # pip install sentence-transformers\n'
        f'  python -m ldx.search --model={output} --corpus=FILE_OR_BEIR_DIR "a query"'
    )


def export(
    student: Student,
    params: Params,
    output: str | Path,
    *,
    card_facts: Mapping[str, Any],
    texts: Sequence[str],
    passage_template: str | None,
) -> None:
    """Write, check and put in place a folder with these parameters.

    Args:
      student: the model.
      params: its parameters.
      output: absent, empty, or an earlier export.
      card_facts: for the model card, see `ldx.models.card.model_card`.
      texts: what the check embeds.
      passage_template: how title and text became passages; None: by source.

    Raises:
      UserError: the folder is something else, or the check fails.
    """
    card = model_card(student, card_facts)
    save_student(student, params, output, card=card, texts=texts, passage_template=passage_template)


def _data_facts(records: Sequence[Path]) -> dict[str, Any]:
    manifests = [Manifest.read(folder) for folder in records]
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
        PassageSource(records), template=manifest.passage_template, max_chars=manifest.max_chars
    )
    count = min(NUM_CHECK_TEXTS, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
