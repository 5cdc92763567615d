"""A web server as a program: ``python -m tests.distributed.serve FOLDER PORT [FAULT...]``.

Each fault is used up by one request: ``cut`` (the connection ends in the middle), a status.
"""

import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.datamodules.server import Server, _Handler


def main(folder, port, *faults):
    state = Server(Path(folder))
    state.faults = [int(fault) if fault.isdigit() else fault for fault in faults]
    handler = type("Handler", (_Handler,), {"state": state})
    ThreadingHTTPServer(("", int(port)), handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
