"""Retrieval of candidates: BM25, dense retrievers and run files, their fusion, and its results."""
