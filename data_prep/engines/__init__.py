"""Work in shards, and the engines that do it: this process or a Ray cluster."""
