"""What tests of several modules use."""

import contextlib
from collections.abc import Iterator

import jax

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
