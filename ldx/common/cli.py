"""What all commands share: flags, logging, and how a user learns of a mistake."""

import errno
import functools
import itertools
import logging as std_logging
import operator
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from ldx.common.configs import (
    check_config_path,
    explain_missing_config,
    importable_configs,
)
from ldx.common.errors import UserError
from ldx.common.extras import EXTRAS, how_to_install
from ldx.common.files import folder_path
from ldx.common.interrupt import Interrupted

HELP_FLAGS = ("help", "helpshort", "helpfull", "helpxml")
PATH_ERRORS = (
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE, errno.EIO),
)
"""What a path may be to blame for: of another kind, out of bounds, on a broken file system."""
NO_SPACE = "No space left on device"

OUT_OF_MEMORY = """out of memory: {error}
Lower one of these and run the same command again:
  --config.train.microbatch_tokens   tokens that are in work at once (in ldx.evaluate:
                                     --microbatch_tokens)
  --config.train.activation_bytes    kept of the first pass (0: nothing)
  --config.model.passage_max_length  tokens of a passage
  --config.data.batch_size           lists in a step"""


class _OrNone(flags.ArgumentParser):
    """A parser for the flag of a key that may be None: the word None, or what `parse` takes."""

    def __init__(self, parse: Callable[[Any], Any], form: str):
        self._parse, self._form = parse, form

    def parse(self, argument: Any) -> Any:
        if argument in (None, "None"):
            return None
        try:
            return self._parse(argument)
        except (TypeError, ValueError):
            raise ValueError(f"wanted {self._form}") from None


class _Tuples(tuple_parser.TupleParser):
    """A parser for the flag of a tuple, which also refuses a lone bracket."""

    def parse(self, argument: Any) -> Any:
        wrong = ValueError('wanted values in brackets, such as "(1, 2)"')
        try:
            values = super().parse(argument)
        except (TypeError, ValueError):
            raise wrong from None
        if any(isinstance(value, str) and value.startswith(("(", "[")) for value in values):
            raise wrong
        return values


_PARSERS = {
    int: _OrNone(flags.IntegerParser().parse, "a whole number"),
    float: _OrNone(flags.FloatParser().parse, "a number"),
    bool: _OrNone(flags.BooleanParser().parse, "true or false"),
    str: _OrNone(flags.ArgumentParser().parse, "a text"),
    tuple: _Tuples(),
}


def define_config(
    what: str = "Experiment", example: str = "configs/demo.py", variants: str = ":smoke"
) -> None:
    """Define --config=FILE.py[:arg], with --config.section.key=value for every key of the file.

    Args:
      what: the word for what a config of this command is.
      example: the path of one.
      variants: the arguments that such configs take.
    """
    for field_type, parser in _PARSERS.items():
        config_flags.register_flag_parser_for_type(field_type, parser)
    text = f"{what}, such as {example}[{variants}]; --config.KEY=VALUE sets any key of it"
    config_flags.DEFINE_config_file("config", None, text)
    flags.FLAGS["config"].default_as_str = ""  # --help would say that the default is 'None'


def _no_config() -> str:
    """The message where --config is missing, with the example that its help has."""
    match = re.search(r"configs/\S+\.py", flags.FLAGS["config"].help)
    assert match
    return f"--config is missing; give one such as --config={match[0]}"


def get_config(*, is_study: bool = False) -> ConfigDict:
    """The config that --config names, with the overrides of the command line.

    Args:
      is_study: whether the command runs studies; the others run experiments.

    Raises:
      UserError: --config is missing, or names a study although the command runs experiments.
    """
    config = flags.FLAGS.config
    if config is None:
        raise UserError(_no_config())
    if "study" in config and not is_study:
        raise UserError(
            f"{_config_argument(sys.argv)}: this config is a study; run it with python -m ldx.study"
        )
    return config


def refuse_arguments(argv: list[str]) -> None:
    """Refuse an argument that is no flag, such as a path without the name of its flag."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; every setting is a flag: --name=value")


def required(flag: str) -> str:
    """The value of a flag that has no default."""
    value = flags.FLAGS[flag].value
    if not value:
        raise UserError(f"--{flag} is missing; --help lists the flags")
    return value


def required_folder(flag: str) -> Path:
    """The folder, which may be a new one, that a flag without a default names."""
    return folder_path(f"--{flag}", required(flag))


def _config_argument(argv: list[str]) -> str:
    """The argument --config in the form --config=VALUE; "" where it is missing."""
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            return f"--config={value if equals else following}"
    return ""


def _config_path(argv: list[str]) -> str:
    """The path of the config's file; "" where --config is missing."""
    return _config_argument(argv).partition("=")[2].partition(":")[0]


def _unknown_config_key(argv: list[str], error: Exception) -> str | None:
    """The message for an override of a key that the config does not have, if `error` is that."""
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        for part in name.split(".")[1:]:
            if name.startswith("config.") and re.search(rf"\b{re.escape(part)}\b", str(error)):
                near = re.search(r'Did you mean "(\w+)"', str(error))
                hint = f"; did you mean {name.replace(part, near[1])}?" if near else ""
                return f"--{name}: the config has no key {part}{hint}"
    return None


def _check_nones() -> None:
    """Refuse None for a key that always has a value."""
    if "config" not in flags.FLAGS or flags.FLAGS.config is None:
        return
    config = flags.FLAGS.config
    for key, value in config_flags.get_override_values(flags.FLAGS["config"]).items():
        *sections, name = key.split(".")
        section = functools.reduce(operator.getitem, sections, config)
        if value == (None,):  # what the flag of a tuple makes of None
            section[name] = value = None
        # A key that may be None is a placeholder, which keeps its type.
        if value is None and section.get_type(name) is type(None):
            raise UserError(f"--config.{key}=None: this key cannot be None; give it a value")


def _flag_problem(argv: list[str], error: Exception) -> str:
    name = getattr(error, "flagname", "")
    if name.startswith("config.") and "config" in flags.FLAGS and not _config_argument(argv):
        return _no_config()
    text = str(error).strip()
    last = text.splitlines()[-1]
    if wrong := re.fullmatch(r"flag --(config\.\S+?)=(.*): (wanted .*)", text, re.DOTALL):
        return f"{wrong[1]}={wrong[2]!r}: {wrong[3]}"
    if wrong := re.match(r"flag --(config\.\S+?)=(.*): Failed to parse .* as a ConfigDict", text):
        section = f"--{wrong[1]}.KEY=VALUE"
        return f"{wrong[1]}={wrong[2]!r}: this is a section; set its keys one by one, {section}"
    if "Traceback" not in text:
        return last
    # For an error inside a config file, the last line of its traceback says what is wrong.
    return f"{_config_argument(argv)}: {re.sub(r'^[A-Za-z_.]+: ', '', last)}"


def _show_our_flags_in_help(program: str) -> None:
    """Make --help show the flags of all our modules, and not only those of the main one."""
    for module, module_flags in flags.FLAGS.flags_by_module_dict().items():
        if module.partition(".")[0] in ("ldx", "data_prep"):
            for flag in module_flags:
                flags.FLAGS.register_key_flag_for_module(program, flag)


def _parse_flags(argv: list[str]) -> list[str]:
    path = _config_path(argv)
    if path:
        try:
            check_config_path(path)
        except UserError as error:
            raise UserError(f"--config={error}") from None
    app.define_help_flags()
    _show_our_flags_in_help(argv[0])
    try:
        with importable_configs(path):
            rest = flags.FLAGS(argv)
        _check_nones()
        return rest
    except SystemExit as end:
        is_help = any(arg.lstrip("-").partition("=")[0] in HELP_FLAGS for arg in argv[1:])
        raise SystemExit(0 if is_help else end.code) from None  # absl leaves with 1 after its help
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_flag_problem(argv, error)) from None
    except ModuleNotFoundError as error:
        if mistake := explain_missing_config(error):
            raise mistake from None
        raise
    except (AttributeError, KeyError) as error:
        if problem := _unknown_config_key(argv, error):
            raise UserError(problem) from None
        raise


def _fail(message: str, exit_code: int = UserError.exit_code) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return exit_code


def _guarded(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """Run `main` and return the exit code, after one clear message where something went wrong."""
    try:
        rest = _parse_flags(argv)
        set_up_logging()
        main(rest)
        return 0
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, Interrupted) as stop:
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        print("stopped", file=sys.stderr, flush=True)
        return 128 + signum
    except MemoryError as error:
        return _fail(OUT_OF_MEMORY.format(error=error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _fail(f"this needs the package {package}: {how_to_install(package)}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename:
            return _fail(f"{error.filename}: {error.strerror}")
        text = str(error)
        if isinstance(error, OSError) and error.errno == errno.EDQUOT:
            text = NO_SPACE
        if NO_SPACE in text:
            where = getattr(error, "filename", None) or text.splitlines()[0]
            return _fail(f"the disk is full ({where}); make room, then run the same command again")
        if "RESOURCE_EXHAUSTED" in text:
            return _fail(OUT_OF_MEMORY.format(error=text.splitlines()[0]))
        raise


def _is_worth_showing(record: std_logging.LogRecord) -> bool:
    """Whether a log line is ours, or is a library's warning that a user can act on."""
    root = Path(__file__).parents[2]
    if record.pathname.startswith((str(root / "ldx"), str(root / "data_prep"))):
        return True
    return record.levelno >= std_logging.WARNING


def set_up_logging() -> None:
    """Set up logging: lines begin with the time of day, and --verbose shows details too."""
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_is_worth_showing)
    logging.use_absl_handler()
    logging.set_verbosity(logging.DEBUG if flags.FLAGS.verbose else logging.INFO)


def run(main: Callable[[list[str]], None], leave: Callable[[int], None] = sys.exit) -> None:
    """Parse the flags, run `main` and exit with 0 (done), 2 (a user's mistake) or 130 (Ctrl-C).

    `leave` ends the process with the exit code.
    """
    flags.DEFINE_bool("verbose", False, "Print details too, such as what each default became")
    try:
        code = _guarded(main, sys.argv)
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)
