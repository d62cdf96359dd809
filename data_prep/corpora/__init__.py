"""Reading a corpus, reporting its health, and choosing the roles of its passages."""
