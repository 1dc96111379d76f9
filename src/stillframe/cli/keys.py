"""Keys on the command line: made, listed, revoked, replaced. A key's text is printed once, when it is made."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from stillframe.cli.client import call
from stillframe.cli.plain import State, every, moment, printable, service_at, table
from stillframe.listening import write_secret
from stillframe.settings import Settings

KEY = "/v1/stillframe/key"
_DAY_S = 86400

key = typer.Typer(help="Keys: who may call the service.", no_args_is_help=True)
link = typer.Typer(help="Signed links, such as those of screenshots.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id: the part after sfk_.")]


@key.command("create")
def create_key(
    *,
    role: Annotated[str, typer.Option(help="administrator, or operator or reader of a tenant.")] = "operator",
    tenant: Annotated[str, typer.Option(help="The tenant that it is bound to.")] = "",
    description: Annotated[str, typer.Option(help="What or whom it is for.")] = "",
    days: Annotated[
        int | None, typer.Option(min=1, help="How many days it works [for ever].", show_default=False)
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    expires_at = None if days is None else int(time.time()) + days * _DAY_S
    body = {"role": role, "tenant": tenant, "description": description, "expires_at": expires_at}
    _print_new(call(service_at(state), "POST", f"{KEY}/create", json=body), as_json)


@key.command("list")
def list_keys(
    tenant: Annotated[str, typer.Option(help="Only this one's.")] = "",
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show every key, newest first, without its secret."""
    rows = every(service_at(state), f"{KEY}/list", {"tenant": tenant})
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    heads = ["id", "role", "tenant", "created", "state", "description"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


@key.command("revoke")
def revoke_key(key_id: KeyId, state: State = None) -> None:
    """Stop a key at once."""
    call(service_at(state), "POST", f"{KEY}/revoke", json={"key_id": key_id})


@key.command("rotate")
def rotate_key(
    key_id: KeyId,
    grace_s: Annotated[int, typer.Option(min=0, help="How long the old one goes on, seconds.")] = 0,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a key that takes an old one's place, and print it. In admin.key it takes that place as well."""
    service = service_at(state)
    new = call(service, "POST", f"{KEY}/rotate", json={"key_id": key_id, "grace_s": grace_s})
    _print_new(new, as_json)
    if key_id in _kept_key(service).split("_"):
        write_secret(service.key_file, new["api_key"])


def _kept_key(service: Settings) -> str:
    """The key that the state directory keeps for commands; "" where there is none that we may read."""
    try:
        return service.key_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@link.command("rotate")
def rotate_links(state: State = None) -> None:
    """Stop every signed link that was given out."""
    call(service_at(state), "POST", "/v1/stillframe/link/rotate", json={})


def _print_new(row: dict[str, Any], as_json: bool) -> None:
    """Alone on its line, so that a script can take it as it is."""
    typer.echo(json.dumps(row, ensure_ascii=False, indent=2) if as_json else printable(row["api_key"]))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["key_id"],
        row["role"],
        row["tenant"] or "-",
        moment(row["created_at"]),
        _state(row),
        row["description"],
    ]


def _state(row: dict[str, Any]) -> str:
    if row["revoked_at"] is not None:
        return f"revoked {moment(row['revoked_at'])}"
    if row["expires_at"] is None:
        return "works"
    return f"{'works until' if row['expires_at'] > time.time() else 'expired'} {moment(row['expires_at'])}"
