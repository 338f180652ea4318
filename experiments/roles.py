"""The roles of API keys and the rights of each role."""

from typing import Final, Literal

Role = Literal["read", "assign", "edit", "admin"]

RIGHTS: Final[dict[Role, frozenset[Role]]] = {
    "read": frozenset({"read"}),
    "assign": frozenset({"assign"}),  # for a service: assignments and exposures, but not how experiments are set up
    "edit": frozenset({"read", "assign", "edit"}),
    "admin": frozenset({"read", "assign", "edit", "admin"}),
}
"""The rights that a key of each role has."""
