"""Tokens in place of users' ids, and their erasure: the acts of `privacy.Tokens` under the same names."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from experiments.api_keys import ApiKey
from experiments.privacy import Tokens
from experiments.rest import documents as d
from experiments.rest.auth import Auth
from experiments.rest.documents import answer, described, read
from experiments.rest.limits import check_batch
from experiments.rest.problems import Problem


def router(tokens: Tokens | None, auth: Auth, batch: int) -> APIRouter:
    """`batch`: the most users of one request. Without `tokens` each is answered with 501."""
    routes = APIRouter(prefix="/v1/units", tags=["units"])
    Admin = Annotated[ApiKey, Depends(auth.needs("admin"))]

    @routes.post("/token", dependencies=[Depends(auth.needs("assign"))], **described(d.TokenRequest, d.TokenAnswer))
    def token(sent: Annotated[d.TokenRequest, Depends(read(d.TokenRequest))]) -> Response:
        """The unit ids that stand for users, to be sent as `unit` and with every event."""
        known = _configured(tokens)
        check_batch(len(sent.users), batch)
        return answer(d.TokenAnswer([known.token(user) for user in sent.users]))

    @routes.post("/erase", **described(d.EraseRequest, d.ErasedAnswer))
    def erase(by: Admin, sent: Annotated[d.EraseRequest, Depends(read(d.EraseRequest))]) -> Response:
        """Delete what leads from a user to a unit id. The audit log says who did it, and not of whom."""
        return answer(d.ErasedAnswer(_configured(tokens).erase(sent.user, actor=by.name, reason=sent.reason)))

    return routes


def _configured(tokens: Tokens | None) -> Tokens:
    if tokens is None:
        raise Problem(
            501,
            "No tokens here",
            rule="unit tokens need the setting experiments.token_key",
            remedy="set it and start the server again (docs/analysts/experiments.md, Privacy)",
        )
    return tokens
