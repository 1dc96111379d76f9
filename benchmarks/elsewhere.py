"""``stillframe serve`` on another database than the one in its state directory; no setting says so, since none is offered.

    python benchmarks/elsewhere.py URL stillframe serve --listen ADDRESS --state DIRECTORY --connect URI

``URL`` as SQLAlchemy has it. Everything else is the service as it is: the same code, the same settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stillframe.bootstrap import serve
from stillframe.settings import Settings


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    for name in ("url", "program", "command"):
        parser.add_argument(name)
    for option in ("--listen", "--state", "--connect"):
        parser.add_argument(option, required=True)
    given = parser.parse_args(arguments)

    class Elsewhere(Settings):
        @property
        def database_url(self) -> str:
            return str(given.url)

    return serve(Elsewhere(listen=given.listen, state=Path(given.state), connect=given.connect))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
