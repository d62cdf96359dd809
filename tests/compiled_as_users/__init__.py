"""Tests whose programs are compiled with XLA's defaults, by `make test-golden`."""
