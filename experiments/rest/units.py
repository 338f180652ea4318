"""Unit tokens over REST: the methods of `privacy.Tokens` under the same names."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from experiments.api_keys import ApiKey
from experiments.privacy import Tokens
from experiments.rest import documents as d
from experiments.rest.auth import Auth
from experiments.rest.bodies import answer, read
from experiments.rest.limits import check_batch
from experiments.rest.openapi import described
from experiments.rest.problems import Problem


def router(tokens: Tokens | None, auth: Auth, batch: int) -> APIRouter:
    """Return the routes of unit tokens.

    Args:
        tokens: The tokens; without them every request is answered with 501.
        auth: Checks the API keys.
        batch: Maximum number of users of one request.
    """
    routes = APIRouter(prefix="/v1/units", tags=["units"])
    Admin = Annotated[ApiKey, Depends(auth.needs("admin"))]

    @routes.post("/token", dependencies=[Depends(auth.needs("assign"))], **described(d.TokenRequest, d.TokenAnswer))
    def token(sent: Annotated[d.TokenRequest, Depends(read(d.TokenRequest))]) -> Response:
        """Return the unit ids of users, to send as `unit` and with every event."""
        configured = _configured(tokens)
        check_batch(len(sent.users), batch)
        return answer(d.TokenAnswer([configured.token(user) for user in sent.users]))

    @routes.post("/erase", **described(d.EraseRequest, d.ErasedAnswer))
    def erase(by: Admin, sent: Annotated[d.EraseRequest, Depends(read(d.EraseRequest))]) -> Response:
        """Delete the link from a user to a unit id. The audit log stores who did it, and not which user."""
        return answer(d.ErasedAnswer(_configured(tokens).erase(sent.user, actor=by.name, reason=sent.reason)))

    return routes


def _configured(tokens: Tokens | None) -> Tokens:
    if tokens is None:
        raise Problem(
            501,
            "No unit tokens",
            rule="unit tokens need the setting experiments.token_key",
            remedy="set it and restart the server (docs/analysts/experiments.md, Privacy)",
        )
    return tokens
