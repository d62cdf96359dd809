"""What all stages share: how a stage runs, its workspace, the order of stages, and config.prep."""
