"""TensorBoard's library is loaded without PyTorch, which stays importable."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

CODE = """
import sys
from ldx.common.tensorboard import import_without_torch
import_without_torch()
print("torch" in sys.modules, "tensorboardX" in sys.modules)
import torch
import_without_torch()
print(torch.ones(2).sum().item())
"""


def test_it_is_loaded_without_torch():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["False True", "2.0"], result.stderr
