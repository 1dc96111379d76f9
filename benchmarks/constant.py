"""What the framework can do without us: one application that answers ``/SIZE`` with so many bytes that lie ready.

python benchmarks/constant.py PORT SIZE...
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI, Response


def answer(size: int) -> Callable[[], Awaitable[Response]]:
    body = b'{"data":"' + b"x" * (size - 11) + b'"}'

    async def constant() -> Response:
        return Response(body, media_type="application/json")

    return constant


def main(port: int, sizes: set[int]) -> None:
    app = FastAPI()
    for size in sizes:
        app.get(f"/{size}")(answer(size))
    uvicorn.run(app, port=port, http="h11", log_config=None, access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), set(map(int, sys.argv[2:])))
