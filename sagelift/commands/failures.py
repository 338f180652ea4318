"""The message and the exit code of a failed command.

0 success, 1 a finding (bad rows, a failed check), 2 wrong usage or settings, 3 the command could not do its work,
4 a consumer stopped because most messages cannot be used, 130 interrupted.
"""

from __future__ import annotations

WRONG_USAGE = 2
FAILED = 3

_DATABASE_PACKAGES = ("sqlalchemy", "sqlite3", "psycopg")  # named, not imported: heavy


def explain(error: Exception) -> tuple[str, int] | None:
    """The sentence and the exit code of an expected failure; None for a defect of the program."""
    from analysis.errors import ArgumentError, ArmNameError, MetricError, MissingColumnError
    from sagelift.errors import SettingsError

    if isinstance(error, expected_errors()):
        wrong_usage = isinstance(error, (SettingsError, ArgumentError, ArmNameError, MetricError, MissingColumnError))
        return str(error), WRONG_USAGE if wrong_usage else FAILED
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror or error}", FAILED
    if type(error).__module__.split(".")[0] in _DATABASE_PACKAGES:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        return f"the database cannot be used: {reason}; check the settings (`sagelift settings` lists them)", FAILED
    return None


def expected_errors() -> tuple[type[Exception], ...]:
    """The base classes of the errors that all packages raise on purpose. Their modules import nothing heavy."""
    from analysis.errors import AnalysisError
    from experiments.errors import ExperimentsError
    from feature_repo.errors import FeatureRepoError
    from inference.errors import InferenceError
    from sagelift.errors import SageliftError
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
