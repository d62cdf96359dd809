"""What tests of several modules use."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from subprocess import CompletedProcess
from types import ModuleType
from unittest import mock

import absl.logging
import jax
import pytest
from absl import flags

from ldx.common import cli
from ldx.retrieval.encoder import Encoder

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compilations(compiled: list[str]) -> Iterator[None]:
    """Append to `compiled` for every program that XLA compiles meanwhile."""

    def note(event: str, duration: float, **facts: object) -> None:
        if event == COMPILED and is_on:
            compiled.append(str(facts))

    is_on = True
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield
    finally:
        is_on = False


def call_command(module: ModuleType, *arguments: str) -> CompletedProcess:
    """What `python -m MODULE ARGUMENTS` ends with, without the seconds that a process needs.

    For commands that end before they do anything; the output has no log lines.
    """
    codes: list[int] = []
    out, err = io.StringIO(), io.StringIO()
    defined, verbosity = set(flags.FLAGS), absl.logging.get_verbosity()
    loggers = logging.getLogger(), absl.logging.get_absl_logger()
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    command = [module.__file__ or "", *arguments]
    try:
        with (
            mock.patch.object(sys, "argv", command),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            module.define_flags()
            cli.run(module.main, leave=codes.append)
    finally:
        for name in set(flags.FLAGS) - defined:
            delattr(flags.FLAGS, name)
        loggers[0].handlers[:] = handlers
        absl.logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return CompletedProcess(command, codes[0], out.getvalue(), err.getvalue())


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of every call of an encoder from now on."""
    sizes: list[int] = []
    encode_blocks = Encoder.encode_blocks

    def counted(self, params, texts, **options):
        sizes.append(len(texts))
        return encode_blocks(self, params, texts, **options)

    monkeypatch.setattr(Encoder, "encode_blocks", counted)
    return sizes
