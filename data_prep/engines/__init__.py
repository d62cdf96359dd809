"""Work in shards, and where it is done: in this process or on a Ray cluster."""
