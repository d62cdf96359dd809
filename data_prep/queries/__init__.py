"""Training queries: extracted from passages, written by a language model, or people's."""
