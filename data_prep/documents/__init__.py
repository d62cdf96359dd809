"""Passages at several levels of relevance that a language model writes for a query."""
