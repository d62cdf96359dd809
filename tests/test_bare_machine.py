"""The step, the models and the losses run where little is installed: a bare accelerator machine."""

import importlib.metadata
import re
import subprocess
import sys

INSTALLED = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "jaxtyping",
    "safetensors",
    "tokenizers",
)

# Runs first in another interpreter: packages that are not allowed cannot be found there.
HIDE = """
import sys
allowed = set({allowed!r})

class Hidden:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is None and top in {known!r} and top not in allowed:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""

STEP = """
import numpy as np, optax
from ldx.data.batching import Shapes
from ldx.data.lists import BatchSize, ListTable
from ldx.data.plan import BatchPlanner
from ldx.records.schema import ListRecord
from ldx.data.tokens import TokensInMemory
from ldx.training.checkpoint import Checkpoints
from ldx.step.memory import auto_activation_bytes, auto_microbatch_tokens
from ldx.parallel.embedder import Embedder
from ldx.models.student import load_student
from ldx.step.objective import make_objective
from ldx.parallel.mesh import make_mesh
from ldx.step.train_step import TrainStep

student = load_student({model!r}, query_max_length=16, passage_max_length=16)
passages, queries = student.tokenizer.encode(["solve a matrix", "cell"]), {{"matrix": 0}}
record = ListRecord(
    "l", "q", "matrix", "", "", -1, np.array([0, 1]), np.full(2, -1, np.int32),
    np.array([1, 0.1], np.float32), np.zeros(0, np.float32),
)
table, size = ListTable.read([record], queries), BatchSize(1, 2, 2)
tokens = auto_microbatch_tokens(student.embed, student.params, 16)
assert tokens > 0 and auto_activation_bytes(student.params) > 0
planner = BatchPlanner(
    TokensInMemory(passages), TokensInMemory(student.tokenizer.encode(list(queries))),
    student.tokenizer, query_max_length=16, passage_max_length=16,
    shapes=Shapes.make(16, 64), size=size,
)
step = TrainStep(
    Embedder(student.embed, make_mesh()), make_objective({{"listwise_kl": {{"weight": 1.0}}}}),
    optax.adamw(1e-3), buffer_rows=planner.buffer_rows,
)
state, result = step(step.init(student.params), planner(table, np.array([0])))
print("total", result.metrics()["total"])
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """Distributions that these need, themselves included, extras left out."""
    found: set[str] = set()
    waiting = [name.lower() for name in names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop())
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            if "extra ==" not in line:
                needed = re.match(r"[\w.-]+", line)
                assert needed
                try:
                    importlib.metadata.distribution(needed[0])
                except importlib.metadata.PackageNotFoundError:
                    continue
                waiting.append(needed[0].lower())
    return found


def test_the_step_needs_few_packages(tiny_bert):
    allowed_distributions = closure(INSTALLED)
    modules = importlib.metadata.packages_distributions()
    allowed, known = set(), set()
    for module, owners in modules.items():
        if module in ("ldx", "data_prep", "configs"):
            continue
        known.add(module)
        names = {re.sub(r"[-_.]+", "-", owner.lower()) for owner in owners}
        if names & allowed_distributions:
            allowed.add(module)
    assert {"grain", "torch", "bm25s", "ml_collections", "transformers"} <= known - allowed
    code = HIDE.format(allowed=sorted(allowed), known=sorted(known))
    code += STEP.format(model=str(tiny_bert))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("total ")
