"""From texts to embeddings to ranked passages."""
