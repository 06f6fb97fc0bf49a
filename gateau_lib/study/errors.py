"""Errors that are the user's to mend, and what other libraries' errors say, in one line."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line that names the place and the fix.

    Commands print it and end with ``status``; any other is a fault of the program (`command.command`).
    """

    status = 2  # exit status


class DataError(UserError):
    """Input that cannot be used; the message names the file, the line or sample, and the fix."""


class ModelError(UserError):
    """A model that cannot be loaded; the message says what was looked for and what to do."""


class ScoreError(UserError):
    """Options, models or files of a scoring run that do not fit together; the message says what to do."""


class TrainingError(UserError):
    """A training run that cannot begin, or that failed; the message names the run and says how to go on."""


def reason(error: BaseException) -> str:
    """The first line of the error's message, or the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__
