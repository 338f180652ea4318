"""The OpenAPI document of the REST interface is published in docs."""

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]


def test_the_openapi_document_in_docs_is_current(api: Any) -> None:
    """`sagelift experiment openapi > docs/reference/experiments-openapi.json` writes it."""
    written = json.loads((REPOSITORY / "docs" / "reference" / "experiments-openapi.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(api.app.openapi()))
