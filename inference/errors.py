"""The errors of inference.

InferenceError
├── InputError (ValueError)        a product, a query or a training set is invalid
├── ArtifactError (ValueError)     a model file or folder is missing, truncated or of another kind
└── ServingError (RuntimeError)    Triton refuses, fails or does not answer
    └── Unavailable (ConnectionError)  Triton does not answer in time; a later request may succeed
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of all errors that inference raises on purpose. The message is written for people."""


class InputError(InferenceError, ValueError):
    """A product, a query or a training set is invalid."""


class ArtifactError(InferenceError, ValueError):
    """A model file or folder is missing, truncated or of another kind."""


class ServingError(InferenceError, RuntimeError):
    """Triton refuses, fails or does not answer."""


class Unavailable(ServingError, ConnectionError):
    """Triton does not answer in time; a later request may succeed."""
