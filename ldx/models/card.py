"""The model card of an exported student, as hubs and sentence-transformers read it."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldx.common.config_paths import is_path_key
from ldx.models.st_folder import PASSAGE_TOWER, QUERY_TOWER
from ldx.models.student import Student
from ldx.models.towers import MAP_NAME
from ldx.models.weights import WEIGHTS_NAME

UNKNOWN_LICENSE = "unknown, see base model"
SHOWN_METRICS = ("nDCG@10", "R@100", "RR@10", "AP@100")


def model_card(student: Student, facts: Mapping[str, Any]) -> str:
    """The text of an exported model's README.md.

    Args:
      student: the model.
      facts: what the card says, all optional. `base`: the path of the base model; `collection`:
        what it was trained for; `num_lists`: the number of training lists; `losses`: settings by
        loss; `step`: the step of the parameters; `parameters`: what they are, where not those of
        the step; `config`: the whole experiment; `provenance`: how the lists of each collection
        were made, by the manifest of its records; `results`: metrics by system, base and trained
        among them; `passage_template`: how title and text became passages; `verdict`: the verdict
        by dev queries; `output`: the folder, as the examples name it; `prompts`: how to take the
        prompts of a source, where sources differ; `has_two_towers`: whether only queries are
        embedded by trained parameters, and `has_passage_map`: whether the embeddings of passages
        are mapped; `passage_model` and `passage_fingerprint`: what embeds passages, and the digest
        of all that makes an index.
    """
    base = base_name(str(facts.get("base", student.folder)))
    facts = {**facts, "collection": _plain(facts.get("collection", "one corpus"))}
    collection = facts["collection"]
    parts = [
        _front_matter(student, base),
        _title(base, collection, facts.get("step")),
        _summary(base, collection, facts),
        _facts(student, base, facts),
        _index(student, facts),
        _results(facts.get("results") or {}, (facts.get("config") or {}).get("eval", {})),
        f"## Against the base model, by dev queries\n\n{_sentence(facts['verdict'])}"
        if "verdict" in facts
        else "",
        _usage(facts),
        _folded("How the training lists were made", facts.get("provenance")),
        _folded("The whole experiment", _experiment(facts)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(base: str, collection: str, step: int | None) -> str:
    name = base.rpartition("/")[2].partition("@")[0]
    return f"# {name}" if step == 0 else f"# {name}, fine-tuned for {collection}"


def _summary(base: str, collection: str, facts: Mapping[str, Any]) -> str:
    if facts.get("has_two_towers"):
        mapped = ", then mapped by a matrix" if facts.get("has_passage_map") else ", unchanged"
        return (
            f"Two text embedding models in one folder. Queries are embedded by {base}, trained by "
            f"ldx to search {collection}; passages by {base} as it was{mapped}. Neither takes the "
            "place of the other."
        )
    if facts.get("step") == 0:
        return (
            f"A text embedding model: {base}, unchanged. ldx trained it for {collection}, and no "
            "step was better on dev queries."
        )
    return f"A text embedding model: {base}, trained by ldx to search {collection}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def base_name(path: str) -> str:
    """The name of a base model for other people: on the hub, of its package, or of its folder."""
    if path.startswith("package:"):
        return path.removeprefix("package:").partition("#")[0]
    if "@" in path and not Path(path).is_dir():
        return path
    return Path(path).resolve().name


def license_of(folder: Path) -> str | None:
    """The license that the front matter of a folder's README.md names; None where it names none."""
    path = folder / "README.md"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    front_matter = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    line = front_matter and re.search(r"^license: *(\S+) *$", front_matter[1], re.MULTILINE)
    return line[1].strip("'\"") if line else None


def _front_matter(student: Student, base: str) -> str:
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        *(f"- {tag}" for tag in ("sentence-transformers", "sentence-similarity")),
        *(f"- {tag}" for tag in ("feature-extraction", "information-retrieval", "ldx")),
    ]
    if license := license_of(student.folder):
        lines.append(f"license: {license}")
    if "/" in base:
        lines.append(f"base_model: {base.partition('@')[0]}")
    return "\n".join([*lines, "---"])


def _facts(student: Student, base: str, facts: Mapping[str, Any]) -> str:
    config = student.config
    template = facts.get("passage_template")
    norm = "norm 1 (compare by cosine)" if config.normalize else "any norm (compare by dot product)"
    rows = {
        "Base model": base,
        "License of the base model": license_of(student.folder) or UNKNOWN_LICENSE,
        "Training data": facts.get("collection"),
        "Training lists": facts.get("num_lists"),
        "Teachers": _teachers(facts.get("provenance") or {}),
        "Losses": _losses(facts.get("losses") or {}),
        "Steps": facts.get("step"),
        "Parameters": facts.get("parameters"),
        "Embeddings": f"{student.embedding_size} dimensions, {config.pooling} pooling, {norm}",
        "Query prompt": _code(config.query_prompt) if config.query_prompt else "none",
        "Passage prompt": _code(config.passage_prompt) if config.passage_prompt else "none",
        "Passages are": _code(template) if template else None,
        "Maximum length": f"queries {config.query_max_length}, "
        f"passages {config.passage_max_length} tokens",
        "Prompts of sources": _code(facts["prompts"]) if facts.get("prompts") else None,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["## The model", "", "| | |", "|---|---|", *lines])


def _plain(text: str) -> str:
    """A text of the user's, without what would be markup."""
    return " ".join(html.escape(text, quote=False).replace("|", "&#124;").split())


def _code(text: str) -> str:
    """A text of the user's as code, whatever is in it."""
    if re.search(r"[`|<\n]", text):
        return f"<code>{html.escape(text).replace('|', '&#124;')}</code>".replace("\n", "&#10;")
    return f"`{text}`"


def _teachers(provenance: Mapping[str, Any]) -> str:
    teachers = [t for lists in provenance.values() for t in lists.get("teachers", ())]
    names = [
        f"{t['name']} ({base_name(t['model'])})" if t.get("model") else t["name"] for t in teachers
    ]
    return ", ".join(dict.fromkeys(names))


def _losses(losses: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} ({', '.join(f'{key} {value}' for key, value in settings.items())})"
        for name, settings in losses.items()
        if settings.get("weight")
    )


def _results(results: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    metrics = [m for m in SHOWN_METRICS if any(m in values for values in results.values())]
    if not metrics:
        return ""
    first = metrics[0]
    head = ["", *metrics, f"{first} against base (95% interval)", "p", "queries"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for name, values in results.items():
        cells = [f"{values[m]:.4f}" if m in values else "" for m in metrics]
        lines.append(_row([name, *cells, *_against_base(values, first)]))
    split = f" ({settings['split']})" if settings.get("split") else ""
    note = "p: paired permutation test."
    return "\n".join([f"## Results on human judgments{split}", "", *lines, "", note])


def _against_base(values: Mapping[str, Any], metric: str) -> list[str]:
    """Difference to the base model, p and number of queries; empty cells for the base model."""
    if f"{metric}_difference" not in values:
        return [""] * 3
    low, high = values[f"{metric}_difference_low"], values[f"{metric}_difference_high"]
    num_queries = sum(values[f"{metric}_{key}"] for key in ("wins", "losses", "ties"))
    change = f"{values[f'{metric}_difference']:+.4f} ({low:+.4f} to {high:+.4f})"
    return [change, f"{values[f'{metric}_p_value']:.4f}", str(num_queries)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _index(student: Student, facts: Mapping[str, Any]) -> str:
    """What an index must have been made with, where queries have a tower of their own."""
    if not facts.get("has_two_towers"):
        return ""
    config, model = student.config, facts["passage_model"]
    prompt = f"the prompt `{config.passage_prompt}`" if config.passage_prompt else "no prompt"
    template = facts.get("passage_template")
    lines = [
        "## The index it searches\n",
        f"Its passages are embedded by {model} with {prompt}, cut at {config.passage_max_length} "
        f"tokens{f', as `{template}`' if template else ''}: by `encode_document`, or by the model "
        f"in `{PASSAGE_TOWER}`.",
    ]
    if facts.get("has_passage_map"):
        norm = ", then scale each to norm 1" if config.normalize else ""
        lines.append(
            f"An index of embeddings by {model} itself is brought up to date without a passage "
            f"being read: multiply them by the transposed `{MAP_NAME}` of "
            f"`{PASSAGE_TOWER}/2_Dense/{WEIGHTS_NAME}`{norm}."
        )
    else:
        lines.append(f"An index that {model} made like this stays as it is.")
    lines.append(f"Its passage fingerprint in ldx is `{facts['passage_fingerprint']}`.")
    return "\n".join(lines)


def _usage(facts: Mapping[str, Any]) -> str:
    output = str(facts.get("output", "FOLDER"))
    code = f"""## How to use it

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{output}")
queries = model.encode_query(["a query"])
passages = model.encode_document(["a passage", "another"])
scores = model.similarity(queries, passages)
```

With ldx: `python -m ldx.search --model={output} --corpus=CORPUS "a query"`"""
    if not facts.get("has_two_towers"):
        return code
    return f"""{code}

`model.encode` alone is refused, since it does not say which of the two a text is for. The folder
needs sentence-transformers 5 or later. Servers such as vLLM and TEI take the model of each kind of
text by itself, and the prompt with the text:

    vllm serve {output}/{QUERY_TOWER} --runner pooling
    vllm serve {output}/{PASSAGE_TOWER} --runner pooling"""


def _experiment(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config without its section prep, where the records tell how they were made."""
    config = facts.get("config")
    lists = (facts.get("provenance") or {}).values()
    if not config or not lists or not all(each.get("settings") for each in lists):
        return config
    return {key: section for key, section in config.items() if key != "prep"}


_PLACE = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]*://|[/~]|\.\.?/|[A-Za-z]:\\)")
_HIDDEN = ("base_url", "api_key_env", "python", "wandb_project")


def _public(value: Any, key: str = "") -> Any:
    """A value as other people may see it: no server, and of a path the last name alone."""
    if isinstance(value, Mapping):
        prefix = f"{key}." if key else ""
        return {k: _public(v, f"{prefix}{k}") for k, v in value.items() if k not in _HIDDEN}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    is_place = isinstance(value, str) and not re.search(r"\s", value) and _PLACE.match(value)
    if isinstance(value, str) and (is_path_key(key) or is_place):
        is_public = value.startswith(("package:", "split:")) or "@" in value or not value
        return value if is_public and not _PLACE.match(value) else re.split(r"[/\\]", value)[-1]
    return value


def _folded(summary: str, values: Mapping[str, Any] | None) -> str:
    """JSON that is hidden under a line until a reader opens it."""
    if not values:
        return ""
    text = json.dumps(_public(values), indent=2, ensure_ascii=False).replace("`", "\\u0060")
    return f"<details><summary>{summary}</summary>\n\n```json\n{text}\n```\n\n</details>"
