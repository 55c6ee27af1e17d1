"""Errors whose message is the whole story: what, where, expected and found, what to do next.

The command line prints them without a traceback (`--debug` shows it); anything else is a bug and keeps its traceback.

    raise UserError("runs/a: no config.json; give the folder that training wrote")
"""


class UserError(Exception):
    """Something in the input, the machine or the run is wrong; the command ends with exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The command was called in a wrong way; it ends with exit code 2."""

    exit_code = 2
