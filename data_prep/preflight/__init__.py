"""Checks and cost estimates before the first stage."""
