"""The command line: starts the service, and is otherwise a client of its HTTP API. Where none runs doctor looks by itself.

Exit codes: ``ending.py``. What went wrong is told on stderr, in the reader's language (``words.py``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from stillframe.cli.doctor_command import doctor, options, version
from stillframe.cli.ending import FAILED, UNWRITTEN, CliError
from stillframe.cli.keys import key, link
from stillframe.cli.log import show_log
from stillframe.cli.plain import complain
from stillframe.cli.quoting import COMPLETION, TYPED, BashLine, hidden_line, quoted_for_fish, quoted_for_zsh
from stillframe.cli.serving import serve
from stillframe.cli.shown import show, tree
from stillframe.cli.snapshots import edit, rm, rollback, rollback_disk, take
from stillframe.cli.streams import UnwrittenError, give_up_output, open_streams
from stillframe.cli.tasks import cancel_task, list_tasks, task_group, watch
from stillframe.cli.tenants import tenant
from stillframe.cli.vms import guest, list_vms, vm_group
from stillframe.cli.words import Words, reads_chinese

log = logging.getLogger("stillframe.cli")
_ONE_LINE = "10000"
# what virsh, git and others call them
_MEANT = {
    "delete": "rm", "remove": "rm", "del": "rm", "create": "take", "snapshot": "take", "save": "take", "revert": "rollback",
    "restore": "rollback", "list": "ls", "vms": "ls", "info": "show", "get": "show", "modify": "edit", "describe": "edit",
}  # fmt: skip


class _Commands(TyperGroup):
    """What is wrong with a command line is told by Typer, in English: who reads Chinese is told so first.

    Who calls a command by another's name for the same is told ours.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name not in self.commands and (meant := _MEANT.get(name)) in self.commands:
            english = f'No such command "{name}": it is "stillframe {meant}".'
            ctx.fail(Words(english, f"没有命令“{name}”：请用“stillframe {meant}”。").said())
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _introduced():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _introduced():
            return super().invoke(ctx)


@contextlib.contextmanager
def _introduced() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        # a bare "stillframe" is answered with the help, which is no error; Typer has no public name for that one
        if reads_chinese() and type(error).__name__ != "NoArgsIsHelpError":
            complain(["stillframe：命令用法有误，原因见下（英文）；各命令加 --help 可查看用法"])
        raise


app = typer.Typer(
    cls=_Commands,
    help="Snapshots of virtual machines on libvirt/QEMU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.callback()(options)
app.command("ls")(list_vms)
app.command()(show)
app.command()(tree)
app.command()(take)
app.command()(rollback)
app.command("rollback-disk")(rollback_disk)
app.command()(edit)
app.command()(rm)
app.command("tasks")(list_tasks)
app.command()(watch)
app.command("cancel")(cancel_task)
app.add_typer(task_group, name="task")
app.command("log")(show_log)
app.add_typer(vm_group, name="vm")
app.add_typer(guest, name="guest")
app.add_typer(key, name="key")
app.add_typer(link, name="link")
app.add_typer(tenant, name="tenant")
app.command()(doctor)
app.command()(serve)
app.command()(version)


def main() -> None:
    """Run the command line; ends the process with one of the exit codes, never with a traceback."""
    open_streams()
    if os.environ.get(COMPLETION, "").startswith("complete_"):
        _complete()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except CliError as error:
        complain(error.lines())
        sys.exit(error.exit_code)
    except UnwrittenError as error:
        give_up_output()
        words = Words(
            f"stillframe: the output could not be written: {error}; what was done is not undone by that",
            f"stillframe：无法写出输出：{error}；已完成的操作不会因此撤销",
        )
        complain([words.said()])
        sys.exit(UNWRITTEN.code)
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        words = Words(
            f"stillframe: unexpected {type(error).__name__}: {error}",
            f"stillframe：意外错误 {type(error).__name__}：{error}",
        )
        complain([words.said()])
        sys.exit(FAILED.code)


def _complete() -> None:
    """Somebody types: offer what there is, and never a word about what is wrong."""
    asking = os.environ[COMPLETION]
    line = BashLine.of(os.environ)
    if asking == "complete_bash":
        os.environ |= line.environment()
    else:
        os.environ[TYPED] = hidden_line(os.environ.get(TYPED, ""))
    os.environ["COLUMNS"] = _ONE_LINE  # an offer that is wrapped would be two
    offered = io.StringIO()
    with contextlib.redirect_stdout(offered), contextlib.redirect_stderr(io.StringIO()):
        try:
            app()
        except (Exception, SystemExit):
            log.debug("completing", exc_info=True)
    printed = offered.getvalue()
    if asking == "complete_bash":
        printed = line.quoted(printed)
    elif asking == "complete_zsh":
        printed = quoted_for_zsh(printed)
    elif asking == "complete_fish":
        printed = quoted_for_fish(printed)
    sys.stdout.write(printed)
    sys.stdout.flush()
    os._exit(0)  # whoever still waits for a name is not waited for


if __name__ == "__main__":
    main()
