"""How a command ends: the exception for a user's mistake, the exit status after Ctrl-C."""

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C has ended."""


class LabkitError(Exception):
    """Bad input: the message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 1.
    """

    def __str__(self) -> str:
        # A JSON or a file's name may hold half of a surrogate pair, which no terminal can print.
        return super().__str__().encode("utf-8", "backslashreplace").decode()
