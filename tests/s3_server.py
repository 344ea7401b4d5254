"""A real S3 server on loopback, as a process of its own: prints its port.

One request at a time, as conditional puts are atomic in S3 and are not between threads of this server.
"""

from __future__ import annotations

import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main() -> None:
    served, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_by_one(environ, start_response):
        with lock:
            return list(served(environ, start_response))

    server = make_server("127.0.0.1", 0, one_by_one, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
