"""Signing in to the console: a key is shown once, and a cookie that no script can read stands for it from then on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, Security
from pydantic import BaseModel, Field

from stillframe.domain.access import Need, Principal
from stillframe.http.access import API_KEY, SESSION_COOKIE, SIGN_IN_PATH, Gate, ViewerOf, by_anybody, needs, session_of
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers
from stillframe.http.ledger import address_of
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import Body
from stillframe.operations.sessions import LIFETIME_S

router = APIRouter(tags=["console"], route_class=StrictRoute, dependencies=[Depends(refuse_repeated)])

KEY_MAX_CHARS = 256
_SESSION = "/v1/stillframe/session"


class SignInBody(Body):
    api_key: Annotated[str, Field(min_length=1, max_length=KEY_MAX_CHARS, description="The key.")]


class SignOutBody(Body):
    """Nothing: it is the session that asks."""


class WhoData(BaseModel):
    key_id: Annotated[str, Field(description="The id of the key that is signed in with.")]
    role: Annotated[str, Field(description="administrator, operator or reader.")]
    tenant: Annotated[str, Field(description="Empty for an administrator.")]


def _who(principal: Principal) -> WhoData:
    return WhoData(key_id=principal.key_id, role=principal.role.value, tenant=principal.tenant)


@router.post(SIGN_IN_PATH, operation_id="openSession", responses=acts(WhoData))
@by_anybody("session open")
async def sign_in(body: SignInBody, request: Request, door: DoorOf) -> Response:
    """Sign in with a key: the answer sets a cookie for twelve hours. Needs no ApiKey."""
    gate: Gate = request.app.state.gate
    # before anything is written: who has a key may come again and again with it
    gate.hold_back(await door.recall(door.use_cases.authenticate, body.api_key))
    session = await door.recall(door.use_cases.open_session, body.api_key, address_of(request.scope))
    response = answer(_who(session.principal))
    response.set_cookie(
        SESSION_COOKIE,
        session.token,
        max_age=LIFETIME_S,
        secure=door.settings.base_url.startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return response


@router.get(_SESSION, operation_id="getSession", responses=answers(WhoData), dependencies=[Security(API_KEY)])
@needs(Need.LOOK)
async def who(viewer: ViewerOf) -> Response:
    """Who is signed in, or whose key it is."""
    return answer(_who(viewer))


@router.post(f"{_SESSION}/end", operation_id="endSession", responses=acts(), dependencies=[Security(API_KEY)])
@needs(Need.LOOK, "session end")
async def sign_out(body: SignOutBody, request: Request, door: DoorOf, caller: CallerOf) -> Response:
    """End the session that asks; with an ApiKey there is none, and nothing happens."""
    del body
    token = session_of(request.scope)
    if token:
        await door.recall(door.use_cases.end_session, token, caller)
    response = answer()
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response
