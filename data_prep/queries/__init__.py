"""Training queries: cut out of passages, written by a language model, or written by people."""
