"""Random choices that depend on names alone: no order, no stream, no process changes them."""

import hashlib


def draw(seed: int, *names: str) -> float:
    """A number in [0, 1) that seems random and is a function of its arguments."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def pick(num_options: int, seed: int, *names: str) -> int:
    """One of 0 … num_options − 1."""
    return int(draw(seed, *names) * num_options)


def split_of(dev_fraction: float, seed: int, name: str) -> str:
    """`dev` for about `dev_fraction` of all names, else `train`."""
    return "dev" if draw(seed, "split", name) < dev_fraction else "train"
