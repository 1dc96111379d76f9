"""Parameters that are read without the framework are understood as the framework understands them."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI, Query
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stillframe.domain.errors import ErrorCase
from stillframe.http.parsing import _parameters
from stillframe.http.schemas import SnapshotListParams, SnapshotParams, VmParams
from support.http_door import VM, DoorClient, as_envelope, must_fail

app = FastAPI()


@app.get("/list")
async def _list(params: Annotated[SnapshotListParams, Query()]) -> dict[str, str]:
    return {"seen": repr(params)}


@app.get("/get")
async def _get(params: Annotated[SnapshotParams, Query()]) -> dict[str, str]:
    return {"seen": repr(params)}


@app.get("/vm")
async def _vm(params: Annotated[VmParams, Query()]) -> dict[str, str]:
    return {"seen": repr(params)}


MODELS: dict[str, type[BaseModel]] = {"list": SnapshotListParams, "get": SnapshotParams, "vm": VmParams}
NAMES = st.sampled_from(
    ["cluster_uuid", "tenant", "compute_uuid", "name", "page_num", "page_number", "page_size", "filter_name", "other"]
)
VALUES = st.sampled_from(
    ["", VM, VM.upper(), "0", "-1", "007", "1.0", "x", "null", "true", "a+b", "%E5%BF%AB", "%FF", "%00"]
)


def by_framework(call: str, query: str) -> str | None:
    """What the framework makes of it; None: it refuses."""

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await client.get(f"/{call}?{query}")

    response = asyncio.run(ask())
    return str(response.json()["seen"]) if response.status_code == httpx.codes.OK else None


@given(st.sampled_from(sorted(MODELS)), st.dictionaries(NAMES, VALUES), st.booleans())
def test_both_ways_see_the_same(call: str, given_ones: dict[str, str], is_whole: bool) -> None:
    parameters = {"cluster_uuid": "", "compute_uuid": VM, "name": "n", **given_ones} if is_whole else given_ones
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    found = _parameters(MODELS[call], query.encode())
    assert (None if found is None else repr(found)) == by_framework(call, query)


@pytest.mark.parametrize("call", ["list", "get", "tree", "head"])
def test_what_is_given_twice_is_refused_by_name(call: str) -> None:
    query = f"cluster_uuid=&compute_uuid={VM}&name=n&compute_uuid={quote(VM)}"
    envelope = as_envelope(DoorClient().request("GET", f"/v1/compute/vsd/snapshot/{call}?{query}"))
    assert must_fail(envelope, ErrorCase.PARAMETER_MALFORMED).startswith("compute_uuid: expected once")
