"""The library that writes and reads TensorBoard's files."""

import sys
from types import ModuleType


def import_tensorboard() -> ModuleType:
    """The module tensorboardX, loaded without PyTorch.

    Where PyTorch is installed, tensorboardX imports it to accept its tensors. That takes seconds
    and memory at the start of every run, and ldx only writes numbers.
    """
    hides_torch = "torch" not in sys.modules
    if hides_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if hides_torch:
            del sys.modules["torch"]
    return tensorboardX
