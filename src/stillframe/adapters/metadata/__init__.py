"""The metadata port on SQLite and PostgreSQL, with SQLAlchemy Core; ``open_metadata`` is the way in."""

from __future__ import annotations

from stillframe.adapters.metadata.database import SqlMetadata, open_metadata

__all__ = ("SqlMetadata", "open_metadata")
