"""The flags that choose an engine: this process, or the workers of a Ray cluster."""

from absl import flags

from data_prep.engines.local import LocalEngine
from data_prep.engines.shards import Engine

ENGINES = ("local", "ray")


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
    """The engine that the flags name."""
    values = flags.FLAGS
    if values.engine == "local":
        return LocalEngine()
    from data_prep.engines.ray import RayEngine

    return RayEngine(values.ray_address, values.ray_workers, values.ray_gpus, values.ray_cpus)
