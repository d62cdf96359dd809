"""The library that writes and reads TensorBoard's files."""

import sys


def import_without_torch() -> None:
    """Import tensorboardX, which then does not import PyTorch.

    Where PyTorch is installed, tensorboardX imports it to accept its tensors. That takes seconds
    and memory at the start of every run, and ldx only writes numbers. It is for commands, which
    have their process for themselves: nobody else can miss PyTorch there, or import it meanwhile.
    """
    if "torch" in sys.modules or "tensorboardX" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX  # noqa: F401
    finally:
        del sys.modules["torch"]
