"""Request bodies that several tests of the REST interface send."""

from typing import Any

import msgspec

from experiments.config import ExperimentConfig

REASON = {"reason": "test"}


def published(config: ExperimentConfig, **changes: Any) -> dict[str, Any]:
    return {"config": msgspec.to_builtins(msgspec.structs.replace(config, **changes)), **REASON}


def live(api: Any, config: ExperimentConfig) -> None:
    assert api("POST", f"/v1/experiments/{config.key}/publish", "edit", json=published(config)).status_code == 200
    assert api("POST", f"/v1/experiments/{config.key}/start", "edit", json=REASON).status_code == 200
