"""The command line, `incident …`."""

import sys


def main() -> None:
    """Run the command line. Exit status: 0 yes, 1 no, 2 wrong usage."""
    from responder.cli.app import app
    from responder.domain.errors import IncidentResponseError, ProfileError

    try:
        app(prog_name="incident")  # whatever started us: messages name the program
    except IncidentResponseError as error:
        hint = "\ndocs/profile.md, docs/scenarios.md and docs/catalogue.md describe every key"
        print(f"incident: {error}{hint if isinstance(error, ProfileError) else ''}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        print("incident: interrupted; what was begun goes on and is shown by `incident list`", file=sys.stderr)  # noqa: T201
        sys.exit(130)
