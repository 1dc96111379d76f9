"""Reading requests strictly: JSON that is JSON, parameters named once, and errors that say which field wants what."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.access import PRINCIPAL, check_allowed, need_of

ERRORS_MAX_NAMED = 5
QUERY_MAX_PARAMETERS = 64
JSON_MAX_DEPTH = 64
_EXACT_MAX = 1 << 53  # beyond it a float skips integers

E = TypeVar("E", bound=Callable[..., Any])
_DIRECT: dict[Callable[..., Any], type[BaseModel]] = {}

# a string, closed or not, so that nothing is looked at twice; or one bracket
_JSON_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

_EXPECTED = {
    "string_type": "a string",
    "string_unicode": "a string of Unicode text",
    "bool_type": "true or false",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
    "dict_type": "a JSON object",
}


class StrictRoute(APIRoute):
    """A route for those who may call it, whose body is parsed by ``parse_json`` instead of the framework's more lenient
    way.

    The media type must be JSON: besides being what is documented, it is what keeps a foreign web page from posting
    a form to a service on the user's own loopback.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        need = need_of(self.endpoint)
        has_body = self.body_field is not None

        model = _DIRECT.get(self.endpoint)

        async def handle_parsed(request: Request) -> Response:
            # before anything that was sent is looked at
            check_allowed(request.scope, need)
            if model is not None:
                params = _parameters(model, request.scope["query_string"])
                if params is not None:
                    answered: Response = await self.endpoint(params, request.app.state.door, request.scope[PRINCIPAL])
                    return answered
            if not has_body:
                return await handle(request)
            raw = await request.body()
            if not raw:
                raise Refused(ErrorCase.PARAMETER_MISSING, "body: expected a JSON object")
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise Refused(
                    ErrorCase.PARAMETER_MALFORMED, f"Content-Type: expected application/json, not {media_type[:80]!r}"
                )
            return await handle(_ParsedRequest(request, raw, parse_json(raw)))

        return handle_parsed


def directly(model: type[BaseModel]) -> Callable[[E], E]:
    """Declares a GET that takes its parameters in this model, the door and the viewer, and nothing else.

    It is called without the framework's way of finding out what an endpoint wants, which takes longer than most reads do.
    What is wrong with the parameters is found and worded in the framework's way all the same.
    """

    def declare(endpoint: E) -> E:
        _DIRECT[endpoint] = model
        return endpoint

    return declare


def _parameters(model: type[BaseModel], query: bytes) -> BaseModel | None:
    """The parameters; None where something is wrong with them."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    if len(given) < len(pairs):
        return None
    try:
        return model.model_validate(given)
    except ValidationError:
        return None


class _ParsedRequest(Request):
    """A request whose body has been read and parsed already."""

    def __init__(self, request: Request, raw: bytes, parsed: object) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._parsed = parsed

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._parsed


def parse_json(raw: bytes) -> object:
    """The value of a UTF-8 JSON text (RFC 8259) whose objects have each key once.

    Raises:
        Refused: PARAMETER_MALFORMED for anything else: NaN and infinities, lone surrogates, other encodings, nesting
            deeper than ``JSON_MAX_DEPTH``, numbers beyond what the interpreter reads, a key that is given repeatedly: which
            of its values was meant is not for us to guess, nor for whoever read it before us.
    """
    try:
        _refuse_depth(raw)
        value: object = json.loads(
            raw.decode("utf-8"), parse_float=_number, parse_constant=_refuse_constant, object_pairs_hook=_object
        )
        if b"\\u" in raw:  # only an escape can smuggle a surrogate past the decoding
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start}"
    except UnicodeEncodeError:
        why = "a lone surrogate, which is no character"
    except json.JSONDecodeError as error:
        why = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError as error:
        why = str(error)
    else:
        return value
    raise Refused(ErrorCase.PARAMETER_MALFORMED, f"body: expected JSON: {why}")


def _number(text: str) -> int | float:
    """JSON has one kind of number: 3.0 is the integer 3, as JSON Schema says as well."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= _EXACT_MAX else value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} is given repeatedly")
        found[key] = value
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _refuse_depth(raw: bytes) -> None:
    """Count the brackets outside strings, without recursion: the parser is recursive, and this stands before it.

    Raises:
        ValueError: a value lies in more than ``JSON_MAX_DEPTH`` others.
    """
    if raw.count(b"[") + raw.count(b"{") <= JSON_MAX_DEPTH:
        return
    depth = 0
    for match in _JSON_STRING_OR_BRACKET.finditer(raw):
        if match[0] in (b"[", b"{"):
            depth += 1
            if depth > JSON_MAX_DEPTH:
                raise ValueError(f"nested too deeply; at most {JSON_MAX_DEPTH} levels are accepted")
        elif match[0] in (b"]", b"}"):
            depth -= 1


def refuse_unsound(scope: Scope, max_header_bytes: int) -> None:
    """What can be refused of a request before its body is read.

    Raises:
        Refused: REQUEST_BROKEN: its end can be understood in two ways, which lets one request hide in another where a
            proxy understands it differently; or it is in another version of HTTP, or asks for a tunnel. URL_TOO_LONG,
            HEADERS_TOO_LARGE, PARAMETER_MALFORMED for too many parameters.
    """
    if scope["method"] == "CONNECT":  # an answer of 200 would promise a tunnel
        raise Refused(ErrorCase.REQUEST_BROKEN, "CONNECT: this is no proxy")
    names = {name for name, _ in scope["headers"]}
    if scope["http_version"] not in ("1.0", "1.1"):
        raise Refused(ErrorCase.REQUEST_BROKEN, f"HTTP/{scope['http_version']}: expected HTTP/1.1")
    if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
        raise Refused(ErrorCase.REQUEST_BROKEN, "Transfer-Encoding: expected without Content-Length, and in HTTP/1.1")
    query = scope["query_string"]
    url_bytes = len(scope["raw_path"]) + len(query)
    if url_bytes > max_header_bytes:
        raise Refused(ErrorCase.URL_TOO_LONG, f"{url_bytes} bytes; at most {max_header_bytes} are accepted")
    # 4: the colon, the space and the end of the line
    header_bytes = url_bytes + sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if header_bytes > max_header_bytes:
        raise Refused(
            ErrorCase.HEADERS_TOO_LARGE,
            f"{header_bytes} bytes with the URL; at most {max_header_bytes} are accepted",
        )
    if query.count(b"&") >= QUERY_MAX_PARAMETERS:
        raise Refused(ErrorCase.PARAMETER_MALFORMED, f"at most {QUERY_MAX_PARAMETERS} query parameters are accepted")


async def refuse_repeated(request: Request) -> None:
    """Each query parameter is given once; which of two values was meant is not for us to guess.

    Raises:
        Refused: PARAMETER_MALFORMED, naming it.
    """
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen:
            raise Refused(ErrorCase.PARAMETER_MALFORMED, f"{name[:80]}: expected once, but it is given repeatedly")
        seen.add(name)


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """One refusal for pydantic's findings: missing wins over malformed, each field is named with what was expected."""
    case = ErrorCase.PARAMETER_MISSING if any(map(_is_missing, errors)) else ErrorCase.PARAMETER_MALFORMED
    named = [f"{_field(error['loc'])}: expected {_expected(error)}" for error in errors[:ERRORS_MAX_NAMED]]
    if len(errors) > ERRORS_MAX_NAMED:
        named.append(f"and {len(errors) - ERRORS_MAX_NAMED} more")
    return Refused(case, "; ".join(named))


def _is_missing(error: Mapping[str, Any]) -> bool:
    """Absent, null or empty where something is required."""
    return (
        error["type"] in ("missing", "string_too_short", "too_short")
        # the fields that may be null accept it, so a null among the errors is a required field's, or a list's entry
        or (error.get("input", "") is None and isinstance(error["loc"][-1], str))
    )


def _field(loc: Sequence[str | int]) -> str:
    """("body", "disk_snapshot_list", 0, "DiskDrive") as disk_snapshot_list[0].DiskDrive."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:])
    return path.removeprefix(".") or str(loc[0])


def _expected(error: Mapping[str, Any]) -> str:
    kind, ctx = error["type"], error.get("ctx") or {}
    if _is_missing(error):
        return "a value, but it is missing or empty"
    if kind == "value_error":
        return str(ctx["error"])  # our own validators word what they expect
    if kind == "greater_than_equal":
        return f"at least {ctx['ge']}"
    if kind == "less_than_equal":
        return f"at most {ctx['le']}"
    if kind == "too_long":
        return f"at most {ctx['max_length']} entries"
    if kind == "string_pattern_mismatch":
        return f"text that matches {ctx['pattern']}"
    return _EXPECTED.get(kind, str(error["msg"]))
