"""The command line, `incident …`."""

import sys


def main() -> None:
    """Run the command line. Exit status: 0 yes, 1 no, 2 wrong usage."""
    from responder.cli.app import app
    from responder.cli.output import see
    from responder.domain.errors import IncidentResponseError

    try:
        app(prog_name="incident")  # whatever started us: messages name the program
    except IncidentResponseError as error:
        print("\n".join([f"incident: {error}", *see(error.page)]), file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        print("incident: interrupted; what was begun goes on and is shown by `incident list`", file=sys.stderr)  # noqa: T201
        sys.exit(130)
