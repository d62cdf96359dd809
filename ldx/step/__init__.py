"""One optimisation step: objective, embed once, update (docs/step.md)."""
