"""Errors of the experiments package.

    ExperimentsError(Exception)
    ├── ConfigError(ValueError)              a config, or an edit of one, that breaks a rule
    ├── UnknownExperimentError(LookupError)  no experiment of that key, or nothing published for it
    ├── ConflictError(RuntimeError)          another writer was first, or the key or layer range is taken
    ├── TransitionError(ValueError)          a change of state that the life cycle does not know
    ├── ScheduleError(ValueError)            a command for later that cannot be kept
    ├── UnknownKeyError(LookupError)         no API key of that id that is still good
    ├── UserError(ValueError)                a user's id that none can have, or that would be kept where it must not
    └── SchemaError(RuntimeError)            a database whose tables are missing or of another schema version

Assignment raises none of them: in the hot path an error is a value, `Assignment.reason`.
"""


class ExperimentsError(Exception):
    """Base class; `str(error)` is a sentence for the person who has to act on it."""


class ConfigError(ExperimentsError, ValueError):
    """A config, or an edit of one, that breaks a rule."""


class UnknownExperimentError(ExperimentsError, LookupError):
    """No experiment of that key, or nothing published for it."""


class ConflictError(ExperimentsError, RuntimeError):
    """Another writer was first, or the key or layer range is taken."""


class TransitionError(ExperimentsError, ValueError):
    """A change of state that the life cycle does not know."""


class ScheduleError(ExperimentsError, ValueError):
    """A command for later that cannot be kept."""


class UnknownKeyError(ExperimentsError, LookupError):
    """No API key of that id that is still good."""


class UserError(ExperimentsError, ValueError):
    """A user's id that none can have, or that would be kept where it must not."""


class SchemaError(ExperimentsError, RuntimeError):
    """A database whose tables are missing or of another schema version."""
