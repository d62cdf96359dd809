"""A run around its steps: settings, parts, loop, dev, checkpoints, verdict."""
