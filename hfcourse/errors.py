"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave (a file, a column, a flag) cannot be used.

    The message is one line: it names the column, row or flag, and the remedy. Recipes print it as ``error: …`` and
    leave with exit code 2; everything else that goes wrong keeps its traceback.
    """
