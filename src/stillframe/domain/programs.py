"""What the programs that the service starts see of the world: fixed, whatever the service itself was started with."""

from __future__ import annotations

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C"}
"""The whole environment: no locale (messages are read), no loader's variables, no secrets of the service's own."""
