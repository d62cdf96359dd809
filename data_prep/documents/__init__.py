"""Passages that a language model writes for a query, of several levels of relevance."""
