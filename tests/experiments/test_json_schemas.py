"""Descriptions of JSON Schemas come from docstrings."""

import msgspec

from experiments.json_schemas import describe_properties


class Plain(msgspec.Struct):
    """Has a summary only."""

    number: int


class Described(msgspec.Struct):
    """Has attributes.

    And a second paragraph.

    Attributes:
        number: How many, in a text that is
            longer than a line.
        plain: Something else.

    Raises:
        ValueError: Never.
    """

    number: int
    plain: Plain


def test_the_text_of_an_attribute_becomes_the_description_of_its_property() -> None:
    _, schemas = msgspec.json.schema_components((Described, Plain))
    describe_properties(schemas)
    assert schemas["Described"]["description"] == "Has attributes.\n\nAnd a second paragraph."
    properties = schemas["Described"]["properties"]
    assert properties["number"]["description"] == "How many, in a text that is longer than a line."
    assert properties["plain"]["description"] == "Something else."
    assert schemas["Plain"] == {**schemas["Plain"], "description": "Has a summary only."}
    assert "description" not in schemas["Plain"]["properties"]["number"]
