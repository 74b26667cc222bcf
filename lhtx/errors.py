"""The errors that a user's own input can cause. Each message names what was found, where, and what is accepted.

They subclass the builtin that a caller would expect, so `except ValueError` keeps working.
"""


class ConfigError(ValueError):
    """A config that cannot be composed or instantiated: the override or key, what it held, what is accepted."""


class DatasetError(ValueError):
    """A dataset that cannot be read or made: the file, the record and the byte offset where there is one."""


class CheckpointError(ValueError):
    """A checkpoint that is unreadable or belongs to another network: the file and the first difference."""


USER_ERRORS = (ConfigError, DatasetError, CheckpointError)
"""All of them: what a command prints as one message, without a traceback."""
