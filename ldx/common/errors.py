"""The exceptions that stand for mistakes of the user, and lists of problems for their messages."""


class UserError(ValueError):
    """A user's mistake; the message says what was found, where, and what to do.

    Commands print the message without a traceback and exit with `exit_code` (`ldx.common.cli.run`).
    """

    exit_code = 2


class WorseModelError(UserError):
    """A refusal to export a model that training made worse, unless the user forces it."""

    exit_code = 3


def listing(problems: list[str], limit: int = 10, *, total: int | None = None) -> str:
    """The first `limit` problems, one a line, and the count of the others.

    `total` is the number of all problems, where `problems` has only the first of them.
    """
    lines = "\n".join(f"  {problem}" for problem in problems[:limit])
    num_hidden = (len(problems) if total is None else total) - limit
    return lines + (f"\n  ... and {num_hidden} more" if num_hidden > 0 else "")
