"""Tests whose programs are compiled with XLA's defaults, by the second command of `make test`."""
