"""Who may do what over the API: each role's rights. Pure."""

from typing import Final, Literal

Role = Literal["read", "assign", "edit", "admin"]

RIGHTS: Final[dict[Role, frozenset[Role]]] = {
    "read": frozenset({"read"}),
    "assign": frozenset({"assign"}),  # a service: assignments and exposures, nothing of how experiments are made
    "edit": frozenset({"read", "assign", "edit"}),
    "admin": frozenset({"read", "assign", "edit", "admin"}),
}
"""What a key of a role may be used for."""
