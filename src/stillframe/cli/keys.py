"""Keys on the command line: made, listed, revoked, replaced. A key's text is printed once, when it is made."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from stillframe.cli.connecting import AsJson, connected, settings_of
from stillframe.cli.plain import moment, print_json, printable, table
from stillframe.client import Client
from stillframe.client.models import Key, NewKey
from stillframe.listening import write_secret
from stillframe.settings import Settings

_DAY_S = 86400

key = typer.Typer(help="Keys: who may call the service.", no_args_is_help=True)
link = typer.Typer(help="Signed links, such as those of screenshots.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id: the part after sfk_.")]


@key.command("create")
@connected
def create_key(
    client: Client,
    *,
    role: Annotated[str, typer.Option(help="administrator, or operator or reader of a tenant.")] = "operator",
    tenant: Annotated[str, typer.Option(help="The tenant that it is bound to.")] = "",
    description: Annotated[str, typer.Option(help="What or whom it is for.")] = "",
    days: Annotated[
        int | None, typer.Option(min=1, help="How many days it works (default: for ever).", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    expires_at = None if days is None else int(time.time()) + days * _DAY_S
    _print_new(client.create_key(role, tenant=tenant, description=description, expires_at=expires_at), as_json)


@key.command("list")
@connected
def list_keys(
    client: Client,
    *,
    tenant: Annotated[str, typer.Option(help="Only this one's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show every key, newest first, without its secret."""
    rows = client.keys(tenant=tenant)
    if as_json:
        print_json(rows)
        return
    heads = ["id", "role", "tenant", "created", "state", "description"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


@key.command("revoke")
@connected
def revoke_key(client: Client, key_id: KeyId, *, as_json: AsJson = False) -> None:
    """Stop a key at once."""
    client.revoke_key(key_id)
    if as_json:
        print_json({})


@key.command("rotate")
@connected
def rotate_key(
    client: Client,
    key_id: KeyId,
    *,
    grace_s: Annotated[int, typer.Option(min=0, help="How long the old one goes on, seconds.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a key that takes an old one's place, and print it. In admin.key it takes that place as well."""
    new = client.rotate_key(key_id, grace_s=grace_s)
    _print_new(new, as_json)
    service = settings_of(client)
    if service is not None and key_id in _kept_key(service).split("_"):
        write_secret(service.key_file, new.api_key)


def _kept_key(service: Settings) -> str:
    """The key that the state directory keeps for commands; "" where there is none that we may read."""
    try:
        return service.key_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@link.command("rotate")
@connected
def rotate_links(client: Client, *, as_json: AsJson = False) -> None:
    """Stop every signed link that was given out."""
    client.rotate_links()
    if as_json:
        print_json({})


def _print_new(row: NewKey, as_json: bool) -> None:
    """Alone on its line, so that a script can take it as it is."""
    if as_json:
        print_json(row)
    else:
        typer.echo(printable(row.api_key))


def _cells(row: Key) -> list[str]:
    return [
        row.key_id,
        row.role,
        row.tenant or "-",
        moment(row.created_at),
        _state(row),
        row.description,
    ]


def _state(row: Key) -> str:
    if row.revoked_at is not None:
        return f"revoked {moment(row.revoked_at)}"
    if row.expires_at is None:
        return "works"
    return f"{'works until' if row.expires_at > time.time() else 'expired'} {moment(row.expires_at)}"
