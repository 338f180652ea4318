"""What can go wrong in inference.

InferenceError
├── InputError (ValueError)        a product, a query or a training set that the model cannot take
├── ArtifactError (ValueError)     a model file or folder that is missing, truncated or of another kind
└── ServingError (RuntimeError)    Triton refuses, fails or does not answer
    ├── RejectedInput (ValueError)     one request is wrong in itself; sending it again will not help
    └── Unavailable (ConnectionError)  nothing answers in time; later may help
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of everything that inference raises on purpose; the message is fit for a person."""


class InputError(InferenceError, ValueError):
    """A product, a query or a training set that the model cannot take."""


class ArtifactError(InferenceError, ValueError):
    """A model file or folder that is missing, truncated or of another kind."""


class ServingError(InferenceError, RuntimeError):
    """Triton refuses, fails or does not answer."""


class RejectedInput(ServingError, ValueError):
    """One request is wrong in itself; sending it again will not help."""


class Unavailable(ServingError, ConnectionError):
    """Triton does not answer in time; later may help."""
