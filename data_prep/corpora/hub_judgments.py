"""Queries and judgments of a collection on the Hugging Face hub, laid out as BeIR's are.

`org/name` has a config `queries`; `org/name-qrels` has a split for each set of judgments.
"""

from typing import Any

from absl import logging

from ldx.common.errors import UserError
from ldx.eval.beir import Qrels


def fetch_judgments(name: str, revision: str) -> tuple[dict[str, str], dict[str, Qrels]]:
    """Queries by id, and judgments by split; both empty where the hub has none.

    Args:
      name: the name of the corpus, `org/name`.
      revision: the revision of the corpus; the judgments, which are in a repository of their own,
        are taken from its branch `main`.

    Raises:
      UserError: the queries or judgments could not be read.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: to read it from the hub, `pip install datasets`") from None
    try:
        records = datasets.load_dataset(name, "queries", split="queries", revision=revision)
        queries = {str(row["_id"]): row["text"] for row in records}
        qrels: dict[str, Qrels] = {}
        for split in datasets.get_dataset_split_names(f"{name}-qrels"):
            qrels[split] = {}
            for row in datasets.load_dataset(f"{name}-qrels", split=split):
                _add(qrels[split], row)
    except datasets.exceptions.DatasetNotFoundError:
        logging.warning(
            "%s: the hub has no %s-qrels; the report will have no human judgments", name, name
        )
        return {}, {}
    except Exception as error:  # the exceptions depend on the versions of several libraries
        problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(
            f"{name}: its queries and judgments could not be read from the hub ({problem}). They "
            "are needed to keep test queries out of training; download the collection, and give "
            "its folder as data.root"
        ) from error
    return queries, {split: judged for split, judged in qrels.items() if judged}


def _add(qrels: Qrels, row: dict[str, Any]) -> None:
    query_id, doc_id = str(row["query-id"]), str(row["corpus-id"])
    qrels.setdefault(query_id, {})[doc_id] = int(row["score"])
