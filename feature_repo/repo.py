"""What `feast -c feature_repo apply` registers: Feast imports this file, and `.feastignore` names all others.

The folder that Sagelift itself writes has its own `repo.py`; see `feature_repo.profile`.
"""

from __future__ import annotations

import os
from pathlib import Path

from feature_repo.definitions import feast_objects, model_versions_in_history

_home = Path(os.environ["SAGELIFT_FEAST"])  # feature_store.yaml needs it, too
globals().update({f"object_{i}": o for i, o in enumerate(feast_objects(_home, model_versions_in_history(_home)))})
