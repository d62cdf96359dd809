"""Benchmarks: ldx beside the ways others take it, a command each.

    python -m tests.benchmarks.step --json=FILE      the training step; under 30 minutes on a CPU
    python -m tests.benchmarks.step --device=gpu --lists=DIR --json=FILE      the same on a GPU
    python -m tests.benchmarks.encode --json=FILE    documents a second
    python -m tests.benchmarks.scaling --json=FILE --plot=FILE.png      growth; under five minutes
    python -m tests.benchmarks.overlap --json=FILE   distinct passages of batches of neighbours
    python -m tests.benchmarks.lists --output=DIR    the lists that the step benchmark runs on

Those on real collections read them from $LDX_DATA_DIR. Results are checked for equality before
anything is timed; every command prints a table and writes its rows as JSON
(`tests.benchmarks.table`), a ratio over 1 meaning that ldx is better.
"""
