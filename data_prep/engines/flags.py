"""The flags that choose an engine: this process, or the workers of a Ray cluster."""

from collections.abc import Sequence

from absl import flags

from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Engine

ENGINES = ("local", "ray")


ENGINE_FLAGS = ("engine", "ray_address", "ray_workers", "ray_gpus", "ray_cpus")


def without_engine_flags(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command but those that `define_engine_flags` defines."""
    others: list[str] = []
    is_value = False  # of the flag before it, as in --engine ray
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        if is_value:
            is_value = False
        elif argument.startswith("-") and name in ENGINE_FLAGS:
            is_value = not equals
        else:
            others.append(argument)
    return others


def define_engine_flags() -> None:
    """Define --engine and the flags of the Ray engine."""
    flags.DEFINE_enum("engine", "local", ENGINES, "Where stages run: this process, or Ray's actors")
    flags.DEFINE_string(
        "ray_address",
        "",
        'Ray: the cluster, such as "auto" on one of its machines; "": the one that RAY_ADDRESS '
        "names, or else one on this machine, for as long as the command runs",
    )
    flags.DEFINE_integer("ray_workers", 0, "Ray: actors at once; 0: as many as there is room for")
    flags.DEFINE_float("ray_gpus", 1.0, "Ray: GPUs of an actor, where the cluster has any")
    flags.DEFINE_float("ray_cpus", 1.0, "Ray: CPUs of an actor")


def engine_from_flags() -> Engine:
    """The engine that the flags name; this process, for a command without these flags."""
    values = flags.FLAGS
    if "engine" not in values or values.engine == "local":
        return LocalEngine()
    from data_prep.engines.ray import RayEngine

    return RayEngine(values.ray_address, values.ray_workers, values.ray_gpus, values.ray_cpus)
