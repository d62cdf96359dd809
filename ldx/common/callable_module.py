"""Modules that can be called: `ldx.train` is a command's module, and the function it runs."""

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


class CallableModule(types.ModuleType):
    """A module that can be called, which calls one of its functions."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function that `make_callable` was given."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the module by its name."""
        return importlib.import_module, (self.__name__,)


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Make the module `name` callable, so that a call of it calls `function`.

    The import system binds the name `ldx.train` to the module ldx/train.py, whatever else
    ldx/__init__.py puts there, so `ldx.train(config, workdir)` has to be a call of the module.
    """
    module = sys.modules[name]
    module.__class__ = CallableModule
    module.__dict__["_function"] = function
    module.__dict__["__signature__"] = inspect.signature(function)
    module.__doc__ = inspect.getdoc(function)
