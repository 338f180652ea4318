"""Errors of the experiments package.

    ExperimentsError(Exception)
    ├── ConfigError(ValueError)              a config, or an edit of a config, breaks a rule
    ├── UnknownExperimentError(LookupError)  no experiment has this key, or nothing is published for it
    ├── ConflictError(RuntimeError)          another writer was first, or the key or layer range is taken
    ├── TransitionError(ValueError)          the life cycle has no such change of state
    ├── ScheduleError(ValueError)            a command cannot be scheduled
    ├── UnknownKeyError(LookupError)         no valid API key has this id
    ├── UserError(ValueError)                a user id is invalid, or would be stored where it must not be
    └── SchemaError(RuntimeError)            the database's tables are missing or have another revision

Assignment raises none of them: on the hot path an error is a value, `Assignment.reason`.
"""


class ExperimentsError(Exception):
    """Base class; `str(error)` is a sentence for the person who has to act."""


class ConfigError(ExperimentsError, ValueError):
    """A config, or an edit of a config, breaks a rule."""


class UnknownExperimentError(ExperimentsError, LookupError):
    """No experiment has this key, or nothing is published for it."""


class ConflictError(ExperimentsError, RuntimeError):
    """Another writer was first, or the key or layer range is taken."""


class TransitionError(ExperimentsError, ValueError):
    """The life cycle has no such change of state."""


class ScheduleError(ExperimentsError, ValueError):
    """A command cannot be scheduled."""


class UnknownKeyError(ExperimentsError, LookupError):
    """No valid API key has this id."""


class UserError(ExperimentsError, ValueError):
    """A user id is invalid, or would be stored where it must not be."""


class SchemaError(ExperimentsError, RuntimeError):
    """The database's tables are missing or have another revision."""
