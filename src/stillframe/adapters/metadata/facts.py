"""Single facts about the service: see ``stillframe.ports.metadata.FactRows`` for the promises."""

from __future__ import annotations

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import AnyText, service_facts

# asked with every answer that holds a link
_VALUE = sa.select(service_facts.c.value).where(service_facts.c.name == sa.bindparam("name", type_=AnyText()))


class SqlFacts:
    """The facts on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> str | None:
        return self._connection.scalar(_VALUE, {"name": name})

    def put(self, name: str, value: str) -> None:
        changed = self._connection.execute(
            sa.update(service_facts).where(service_facts.c.name == name).values(value=value)
        )
        if changed.rowcount == 0:
            self._connection.execute(sa.insert(service_facts).values(name=name, value=value))
