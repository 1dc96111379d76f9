"""The schema's history. Each version is a file that never changes again; opening a database runs what it lacks."""

from __future__ import annotations

import threading

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stillframe.domain.errors import ErrorCase, Refused

_PROCESS_WIDE = threading.Lock()  # Alembic's ``op`` and ``context`` are module globals


def check_up_to_date(connection: sa.Connection) -> None:
    """The schema is this version's. Only looks.

    Raises:
        Refused: STORAGE_FAILED, when it is another's.
    """
    config = Config()
    config.set_main_option("script_location", "stillframe.adapters.metadata:migrations")
    with _PROCESS_WIDE:
        known = ScriptDirectory.from_config(config).get_heads()
        found = MigrationContext.configure(connection).get_current_heads()
    if set(found) != set(known):
        raise Refused(
            ErrorCase.STORAGE_FAILED,
            f"the database is of another version of Stillframe: its schema is {', '.join(found) or 'empty'}, and this "
            f"version's is {', '.join(known)}",
        )


def bring_up_to_date(connection: sa.Connection) -> None:
    """Run the missing migrations inside the connection's open transaction. Repeatable.

    Raises:
        Refused: STORAGE_FAILED, when the database was made by a newer version; nothing is changed.
    """
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "stillframe.adapters.metadata:migrations")
    with _PROCESS_WIDE:
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        strange = sorted(set(MigrationContext.configure(connection).get_current_heads()) - known)
        if strange:
            raise Refused(
                ErrorCase.STORAGE_FAILED,
                f"the database was made by a newer version of Stillframe: its schema is {', '.join(strange)}, and "
                f"this version knows up to {scripts.get_current_head()}; run the newer version, or restore a backup",
            )
        command.upgrade(config, "head")
