"""The API documentation of installed packages as a retrieval collection.

The first paragraph of a docstring, its summary, is a query; the rest of the docstring is the
passage that answers it.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import logging
import pkgutil
import re
import types
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ldx.common.errors import UserError
from ldx.common.progress import progress_bar

MIN_BODY_CHARS = 60
MIN_SUMMARY_WORDS = 3
MAX_SUMMARY_CHARS = 300
SAMPLE_SEED = 0
"""The seed for drawing max_passages; it is fixed so that all runs have the same test queries."""

# Modules that are not part of an API, or that have side effects when they are imported.
_SKIPPED_MODULES = re.compile(
    r"(^|\.)(_|tests?($|\.)|testing($|\.)|conftest|setup|tools($|\.)|distutils|f2py|deprecated)"
)
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*->.*)?$", re.DOTALL)
_DIRECTIVE = re.compile(r"^\.\. ")
_UNDERLINE = re.compile(r"^[-=~^\"]{3,}$")


@dataclass(frozen=True)
class Docstring:
    """The docstring of one object.

    Attributes:
      name: the qualified name of the object.
      summary: the first paragraph.
      body: the other paragraphs.
    """

    name: str
    summary: str
    body: str


@dataclass
class ApiDocs:
    """The docstrings of a collection.

    Attributes:
      docstrings: the docstrings that can be used.
      dropped: how many docstrings were left out, by reason.
    """

    docstrings: list[Docstring]
    dropped: Counter[str] = field(default_factory=Counter)

    def queries(self) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
        """The summaries as queries, and their qrels; equal summaries become one query."""
        queries: dict[str, str] = {}
        qrels: dict[str, dict[str, int]] = {}
        id_of: dict[str, str] = {}
        for doc in self.docstrings:
            query_id = id_of.setdefault(_comparable(doc.summary), f"summary-{doc.name}")
            queries.setdefault(query_id, doc.summary)
            qrels.setdefault(query_id, {})[doc.name] = 1
        return queries, qrels


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package.

    Raises:
      UserError: some packages are not installed.
    """
    versions, missing = {}, []
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise UserError(
            f"prep.packages: not installed: {', '.join(missing)}; install them, or name others"
        )
    return versions


def collect(packages: Iterable[str], max_passages: int | None) -> ApiDocs:
    """Collect the docstrings of installed packages, sorted by name.

    A sample of `max_passages` depends on the names alone, and every larger sample includes it.

    Raises:
      UserError: a package is not installed, or none of the packages has a usable docstring.
    """
    packages = list(packages)
    package_versions(packages)
    docs = ApiDocs([])
    for doc in _docstrings(packages):
        reason = _why_unusable(doc)
        if reason:
            docs.dropped[reason] += 1
        else:
            docs.docstrings.append(doc)
    distinct = _with_distinct_bodies(docs.docstrings)
    if len(distinct) < len(docs.docstrings):
        docs.dropped["equal body"] = len(docs.docstrings) - len(distinct)
    docs.docstrings = distinct
    if not docs.docstrings:
        raise UserError(f"prep.packages: no docstrings found in {', '.join(packages)}")
    if max_passages is not None and len(docs.docstrings) > max_passages:
        docs.dropped["beyond max_passages"] = len(docs.docstrings) - max_passages
        docs.docstrings.sort(key=_draw)
        del docs.docstrings[max_passages:]
    docs.docstrings.sort(key=lambda doc: doc.name)
    return docs


def _draw(doc: Docstring) -> bytes:
    return hashlib.sha256(f"{SAMPLE_SEED}:{doc.name}".encode()).digest()


def split_docstring(text: str) -> tuple[str, str]:
    """Split a docstring into its summary and its body; leading signature lines are left out."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).strip())
    while len(paragraphs) > 1 and _SIGNATURE.match(paragraphs[0].strip()):
        del paragraphs[0]
    summary = " ".join(paragraphs[0].split())
    return summary, "\n\n".join(filter(None, map(_clean_paragraph, paragraphs[1:])))


def _clean_paragraph(paragraph: str) -> str:
    lines = (" ".join(line.split()) for line in paragraph.splitlines())
    return "\n".join(x for x in lines if x and not _DIRECTIVE.match(x) and not _UNDERLINE.match(x))


def _comparable(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")


def _why_unusable(doc: Docstring) -> str | None:
    num_words = len(re.findall(r"[A-Za-z]{2,}", doc.summary))
    if num_words < MIN_SUMMARY_WORDS or len(doc.summary) > MAX_SUMMARY_CHARS:
        return "summary is no sentence"
    if len(doc.body) < MIN_BODY_CHARS:
        return "short body"
    if _comparable(doc.summary) in _comparable(doc.body):
        return "body repeats the summary"
    return None


def _with_distinct_bodies(docs: list[Docstring]) -> list[Docstring]:
    """The first docstring of each body."""
    first: dict[str, Docstring] = {}
    for doc in docs:
        first.setdefault(doc.body, doc)
    return list(first.values())


def _docstrings(packages: list[str]) -> Iterator[Docstring]:
    """The docstring of every public object, once, under the shortest name of the object."""
    object_ids: set[int] = set()
    texts: set[str] = set()
    for package in packages:
        modules = sorted(
            _public_modules(package), key=lambda m: (m.__name__.count("."), m.__name__)
        )
        for module in modules:
            for name, value in sorted(_public_members(module, package)):
                text = _own_docstring(value)
                if text is None or id(value) in object_ids or text in texts:
                    continue
                object_ids.add(id(value))
                texts.add(text)
                yield Docstring(f"{module.__name__}.{name}", *split_docstring(text))


def _public_members(module: types.ModuleType, package: str) -> Iterator[tuple[str, object]]:
    # With getattr() instead of vars(), a module may make deprecated names on access.
    members = vars(module)
    public_names = members.get("__all__")
    for name in members if public_names is None else public_names:
        value = members.get(name)
        home = getattr(value, "__module__", None) or package
        if not name.startswith("_") and callable(value) and str(home).split(".")[0] == package:
            yield name, value


def _own_docstring(value: object) -> str | None:
    """The docstring that was written for this object itself, not for its class or a parent."""
    if inspect.isclass(value):
        text = vars(value).get("__doc__")
    else:
        text = getattr(value, "__doc__", None)
        text = None if text == type(value).__doc__ else text
    return text if isinstance(text, str) and text.strip() else None


def _public_modules(package: str) -> list[types.ModuleType]:
    with _quiet():
        root = _import(package)
        if root is None:
            raise UserError(f"prep.packages: {package} cannot be imported")
        modules, queue = [], [root]
        with progress_bar(desc=f"modules of {package}", unit="") as progress:
            while queue:
                module = queue.pop()
                modules.append(module)
                progress.update()
                for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
                    name = f"{module.__name__}.{info.name}"
                    if not _SKIPPED_MODULES.search(name) and (child := _import(name)) is not None:
                        queue.append(child)
    return modules


def _import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what modules print, warn and log while they are imported; progress bars stay."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
