"""What can go wrong above the rooms.

SageliftError
├── SettingsError (ValueError)   a setting is wrong: names it, its value's rule and where it came from
└── DemoError (RuntimeError)     a stage of the demo did not do its work

`user_errors()` lists what any command reports to a person in a sentence, without a traceback.
"""

from __future__ import annotations


class SageliftError(Exception):
    """Base of everything that this package raises on purpose; the message is fit for a person."""


class SettingsError(SageliftError, ValueError):
    """A setting is wrong."""


class DemoError(SageliftError, RuntimeError):
    """A stage of the demo did not do its work."""


def user_errors() -> tuple[type[Exception], ...]:
    """The bases of all rooms' errors (their modules are light)."""
    from analysis.errors import AnalysisError
    from experiments.errors import ExperimentsError
    from feature_repo.errors import FeatureRepoError
    from inference.errors import InferenceError
    from sagelift.stack.errors import StackError
    from streaming.errors import StreamingError

    return (
        SageliftError,
        AnalysisError,
        ExperimentsError,
        FeatureRepoError,
        InferenceError,
        StackError,
        StreamingError,
    )
