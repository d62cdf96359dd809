"""The worker that mines candidates: it asks every retriever, and fuses what they find."""

from collections.abc import Sequence

from data_prep.corpora.passages import load_passages
from data_prep.engines.shards import Made, Payload
from data_prep.pipeline.workspace import Workspace
from data_prep.retrieval.fusion import Selection, make_candidates
from data_prep.retrieval.retrievers import open_retrievers


class Miner:
    """A worker that finds the candidates of one shard of queries after another.

    Args:
      workspace: holds the passages; the retrievers' indexes are made in it if they are missing.
      sample_queries: texts by which ScaNN's recall is measured.
      selection: which of the fused candidates stay.
    """

    def __init__(self, workspace: Workspace, sample_queries: Sequence[str], selection: Selection):
        passages = load_passages(workspace)
        self._retrievers = open_retrievers(workspace, passages, sample_queries)
        self._selection = selection

    def __call__(self, payload: Payload) -> Made:
        """The candidates of the payload's `texts`, as an .npz file.

        The payload also has their `query_ids`, and in `needed_rows` the rows that are candidates
        of each query in any case.
        """
        retrieved = [
            retriever.find(payload["texts"], payload["query_ids"])
            for retriever in self._retrievers.values()
        ]
        candidates = make_candidates(retrieved, payload["needed_rows"], self._selection)
        return Made(candidates.to_bytes())
