"""The one exception that stands for a mistake of the user."""


class UserError(ValueError):
    """A user's mistake: the message says what was found, where, and what to do.

    Entries print the message without a traceback and exit with `exit_code` (`ldx.common.cli.run`).
    """

    exit_code = 2


class WorseModelError(UserError):
    """A model that training made worse is not handed on unasked."""

    exit_code = 3


def listing(problems: list[str], limit: int = 10, *, total: int | None = None) -> str:
    """The first `limit` problems, one a line, and the count of the others.

    `total` says how many there are in all where `problems` is only the first of them.
    """
    shown = "\n".join(f"  {problem}" for problem in problems[:limit])
    hidden = (len(problems) if total is None else total) - limit
    return shown + (f"\n  ... and {hidden} more" if hidden > 0 else "")
