"""Random choices that depend on a seed and names alone, not on any order or process."""

import hashlib


def draw(seed: int, *names: str) -> float:
    """A pseudo-random number in [0, 1) that depends on the arguments alone."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def pick(num_options: int, seed: int, *names: str) -> int:
    """A pseudo-random whole number from 0 to num_options − 1, from the arguments alone."""
    return int(draw(seed, *names) * num_options)


def split_of(dev_fraction: float, seed: int, name: str) -> str:
    """The split of a name: `dev` for about `dev_fraction` of all names, else `train`."""
    return "dev" if draw(seed, "split", name) < dev_fraction else "train"
