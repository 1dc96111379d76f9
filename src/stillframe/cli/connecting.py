"""Which service a command is for: ``@connected`` gives it a client, and the options that say which."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from stillframe.cli.ending import FAILED, INTERRUPTED, USAGE, CliError, ended_by
from stillframe.cli.plain import settings_with
from stillframe.cli.quoting import found, hidden
from stillframe.cli.words import Words
from stillframe.client import Client, ClientError
from stillframe.client.profiles import default_profile, profile_names, way_of_profile
from stillframe.client.ways import ByState, Way
from stillframe.settings import Settings

PROFILE_VARIABLE = "STILLFRAME_PROFILE"
_STATE_VARIABLE = "STILLFRAME_STATE"

P = ParamSpec("P")


def _known_profiles(incomplete: str) -> list[str]:
    try:
        return [hidden(name) for name in profile_names() if name.startswith(found(incomplete))]
    except ClientError:
        return []  # a completion says nothing of what is wrong


State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="The service's state directory.", show_default=False)
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="The service of this name in profiles.toml.",
        show_default=False,
        autocompletion=_known_profiles,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")]


def way_to(state: Path | None, profile: str) -> Way:
    """The options before the environment, a profile before a state directory; the service of this machine otherwise.

    Raises:
        CliError: the options contradict each other, or a setting is wrong (exit 2).
        ClientError: there is no such profile, or it cannot be used.
    """
    if state is not None and profile:
        words = Words("stillframe: give --state or --profile, not both", "stillframe：--state 与 --profile 只能给一个")
        raise CliError(USAGE, words)
    if state is not None:
        return ByState(settings_with(state=state).state)
    name = profile or os.environ.get(PROFILE_VARIABLE, "")
    if not name and not os.environ.get(_STATE_VARIABLE):
        name = default_profile()
    return way_of_profile(name) if name else ByState(settings_with().state)


def settings_of(client: Client) -> Settings | None:
    """Of the service of this machine that the client speaks to; None: it is known by its address alone."""
    return settings_with(state=client.way.state) if isinstance(client.way, ByState) else None


def connected(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """The command with a client in the place of its first parameter, and ``--state`` and ``--profile`` beside its own.

    What goes wrong becomes a ``CliError``; Ctrl-C, too.
    """

    @wraps(command)
    def run(*args: Any, state: Path | None, profile: str, **kwargs: Any) -> None:
        try:
            with Client(way_to(state, profile)) as client:
                command(client, *args, **kwargs)
        except ClientError as error:
            raise ended_by(error) from error
        except KeyboardInterrupt as error:
            raise CliError(INTERRUPTED, Words("stillframe: stopped", "stillframe：已停止")) from error
        except UnicodeEncodeError as error:
            # an argument that is no text in this terminal's encoding cannot be a name either
            words = Words("stillframe: an argument is not valid text", "stillframe：参数不是有效的文本")
            raise CliError(FAILED, words) from error

    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter("state", keyword, default=None, annotation=State),
        inspect.Parameter("profile", keyword, default="", annotation=Profile),
    ]
    # what Typer reads; no type knows of it
    vars(run)["__signature__"] = signature.replace(parameters=[*own, *more])
    run.__annotations__ = {one.name: one.annotation for one in [*own, *more]} | {"return": None}
    return run
