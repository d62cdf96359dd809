"""ldx makes an embedding model the best retriever for one corpus, and proves it.

From Python, as docs/python.md shows:

    ldx.prepare(config, workdir)               training lists for a corpus
    ldx.train(config, workdir)                 a student trained on them, and its report
    ldx.evaluate(dataset, model=...)           metrics on a test collection
    ldx.export(workdir, output)                a folder for sentence-transformers and vLLM
    ldx.load(path)                             a model: encode_queries, encode_passages, search

Nothing heavy is imported before one of these is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.run import prepare
    from ldx import losses
    from ldx.common.configs import load_config
    from ldx.common.errors import UserError, WorseModelError
    from ldx.common.interrupt import Interrupted
    from ldx.eval.report import Report
    from ldx.evaluate import evaluate
    from ldx.export import export
    from ldx.report.result import RunResult
    from ldx.retrieval.model import Hit, Index, Model
    from ldx.train import train
    from ldx.training.model import load_model as load

__all__ = [
    "Hit",
    "Index",
    "Interrupted",
    "Model",
    "Report",
    "RunResult",
    "UserError",
    "WorseModelError",
    "evaluate",
    "export",
    "load",
    "load_config",
    "losses",
    "prepare",
    "train",
]

_PLACES = {
    "Hit": ("ldx.retrieval.model", "Hit"),
    "Index": ("ldx.retrieval.model", "Index"),
    "Interrupted": ("ldx.common.interrupt", "Interrupted"),
    "Model": ("ldx.retrieval.model", "Model"),
    "Report": ("ldx.eval.report", "Report"),
    "RunResult": ("ldx.report.result", "RunResult"),
    "UserError": ("ldx.common.errors", "UserError"),
    "WorseModelError": ("ldx.common.errors", "WorseModelError"),
    "load": ("ldx.training.model", "load_model"),
    "load_config": ("ldx.common.configs", "load_config"),
    "prepare": ("data_prep.run", "prepare"),
}


def __getattr__(name: str) -> Any:
    """Import a name on first use; commands are modules that can be called (`CallableModule`)."""
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(importlib.import_module(module), attribute)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
