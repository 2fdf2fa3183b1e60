"""The one exception that labkit raises for a user's mistake."""


class LabkitError(Exception):
    """Bad input: the message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 1.
    """
