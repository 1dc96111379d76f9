"""Keys and signed links: made, listed, revoked and replaced by administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security
from pydantic import BaseModel, BeforeValidator, Field, field_validator

from stillframe.domain.access import KEY_ID_CHARS, Need, Role
from stillframe.http.access import API_KEY, needs
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers, follow_with_body
from stillframe.http.fields import Label, query_integer
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import Body
from stillframe.operations.keys import KeySpec, NewKey
from stillframe.ports.keys import KeyRow

KEY = "/v1/stillframe/key"
LIMIT_MAX = 1000
GRACE_MAX_S = 30 * 86400
MOMENT_MAX = 253_402_300_799  # the last second of the year 9999, the last that can be printed

router = APIRouter(tags=["keys"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)])

_THIS = {"key_id": "$response.body#/data/key_id"}
_OF_A_NEW_ONE = {"rotate": follow_with_body("rotateKey", **_THIS), "revoke": follow_with_body("revokeKey", **_THIS)}
_ID_PATTERN = rf"^[0-9a-f]{{{KEY_ID_CHARS}}}$"
KeyId = Annotated[str, Field(min_length=1, pattern=_ID_PATTERN, description="The key's id, its part after sfk_.")]


class KeyCreateBody(Body):
    role: Annotated[
        str,
        Field(
            min_length=1,
            description="administrator, or operator (reads and writes) or reader of a tenant.",
            json_schema_extra={"enum": list(Role)},
        ),
    ]
    tenant: Annotated[
        Label | None, Field(description="The tenant that the key is bound to; none for an administrator.")
    ] = None
    description: Annotated[Label | None, Field(description="What or whom it is for.")] = None
    expires_at: Annotated[
        int | None, Field(ge=1, le=MOMENT_MAX, description="When it stops, Unix seconds; absent: it does not.")
    ] = None

    @field_validator("role")
    @classmethod
    def _is_role(cls, raw: str) -> str:
        if raw not in list(Role):
            raise ValueError(f"one of {', '.join(Role)}")
        return raw

    @property
    def spec(self) -> KeySpec:
        return KeySpec(Role(self.role), self.tenant or "", self.description or "", self.expires_at)


class KeyListParams(BaseModel):
    tenant: Annotated[Label, Field(description="The tenant's uuid; empty: every key.")] = ""
    after: Annotated[
        str, Field(pattern=rf"{_ID_PATTERN}|^$", description="`next` of the page before; empty: the first.")
    ] = ""
    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Most keys of a page."), BeforeValidator(query_integer)
    ] = 100


class KeyRevokeBody(Body):
    key_id: KeyId


class KeyRotateBody(Body):
    key_id: KeyId
    grace_s: Annotated[
        int | None,
        Field(ge=0, le=GRACE_MAX_S, description="How long the old key goes on, seconds; absent: it stops at once."),
    ] = None


class LinkRotateBody(Body):
    """Nothing: there is one secret."""


class KeyData(BaseModel):
    """A key without its secret."""

    key_id: str
    role: Role
    tenant: Annotated[str, Field(description="Empty for an administrator.")]
    description: str
    created_at: Annotated[int, Field(description="Unix seconds.")]
    created_by: Annotated[str, Field(description="The id of the key that made it; empty: the service itself.")]
    expires_at: Annotated[int | None, Field(description="Unix seconds; null: never.")]
    revoked_at: Annotated[int | None, Field(description="Unix seconds; null: it is not.")]


class NewKeyData(KeyData):
    api_key: Annotated[str, Field(description="The key itself, for the header ApiKey. It is shown this once.")]


class KeyListData(BaseModel):
    list: list[KeyData]
    next: Annotated[str, Field(description="`after` for the next page; empty: there is none.")]


def _fields(row: KeyRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in KeyData.model_fields}


def _new(key: NewKey) -> NewKeyData:
    return NewKeyData.model_validate({**_fields(key.row), "api_key": key.text})


@router.post(f"{KEY}/create", operation_id="createKey", responses=acts(NewKeyData, links=_OF_A_NEW_ONE))
@needs(Need.ADMINISTER, "key create")
async def create_key(body: KeyCreateBody, door: DoorOf, caller: CallerOf) -> Response:
    """Make a key; it works from the very next request on."""
    return answer(_new(await door.recall(door.use_cases.create_key, body.spec, caller)))


@router.get(f"{KEY}/list", operation_id="listKeys", responses=answers(KeyListData))
@needs(Need.ADMINISTER)
async def list_keys(params: Annotated[KeyListParams, Query()], door: DoorOf) -> Response:
    """Every key, newest first, also those that have stopped."""
    page = await door.recall(door.use_cases.list_keys, params.tenant, params.after, params.limit)
    return answer(KeyListData(list=[KeyData.model_validate(_fields(row)) for row in page.keys], next=page.next))


@router.post(f"{KEY}/revoke", operation_id="revokeKey", responses=acts())
@needs(Need.ADMINISTER, "key revoke")
async def revoke_key(body: KeyRevokeBody, door: DoorOf, caller: CallerOf) -> Response:
    """Stop a key; the very next request with it is refused."""
    await door.recall(door.use_cases.revoke_key, body.key_id, caller)
    return answer()


@router.post(f"{KEY}/rotate", operation_id="rotateKey", responses=acts(NewKeyData))
@needs(Need.ADMINISTER, "key rotate")
async def rotate_key(body: KeyRotateBody, door: DoorOf, caller: CallerOf) -> Response:
    """Make a key that takes an old one's place; the old one stops at once, or after `grace_s`."""
    return answer(_new(await door.recall(door.use_cases.rotate_key, body.key_id, body.grace_s or 0, caller)))


@router.post("/v1/stillframe/link/rotate", operation_id="rotateLinks", responses=acts())
@needs(Need.ADMINISTER, "links rotate")
async def rotate_links(body: LinkRotateBody, door: DoorOf, caller: CallerOf) -> Response:
    """Draw the secret of all signed links anew: every link that was given out stops."""
    del body
    await door.recall(door.use_cases.rotate_links, caller)
    return answer()
