"""Names of the NumPy array types. A comment or docstring at each use gives the shape."""

from __future__ import annotations

from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Float16Array = np.ndarray[Any, np.dtype[np.float16]]
Float32Array = np.ndarray[Any, np.dtype[np.float32]]
Float64Array = np.ndarray[Any, np.dtype[np.float64]]
Int32Array = np.ndarray[Any, np.dtype[np.int32]]
Int64Array = np.ndarray[Any, np.dtype[np.int64]]
UInt8Array = np.ndarray[Any, np.dtype[np.uint8]]
UInt32Array = np.ndarray[Any, np.dtype[np.uint32]]
UInt64Array = np.ndarray[Any, np.dtype[np.uint64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
AnyArray = np.ndarray[Any, np.dtype[Any]]
