"""`python -m responder.receiver HOST PORT`: the HTTP door, until it is told to end."""

import logging
import sys

from responder.receiver.server import serve


def main() -> None:
    """Serve on the address that the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, port = sys.argv[1:]
    serve(host, int(port))


if __name__ == "__main__":
    main()
