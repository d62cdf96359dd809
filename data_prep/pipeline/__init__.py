"""A stage, its workspace, the order of the stages, the section config.prep."""
