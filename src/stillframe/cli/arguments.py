"""The arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from stillframe.cli import completing

VmName = Annotated[str, typer.Argument(metavar="VM", help="Its name or uuid.", autocompletion=completing.vms)]
SnapshotName = Annotated[
    str, typer.Argument(metavar="NAME", help="The snapshot's name or uuid.", autocompletion=completing.snapshots)
]
TaskUuid = Annotated[str, typer.Argument(metavar="TASK", help="Its uuid.", autocompletion=completing.tasks)]
OnlyVm = Annotated[
    str, typer.Option("--vm", metavar="VM", help="Only this one's, by name or uuid.", autocompletion=completing.vms)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer (default: for ever).", show_default=False),
]
