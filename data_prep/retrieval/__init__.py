"""Candidates: BM25, dense retrievers and runs; their fusion; candidates on disk."""
