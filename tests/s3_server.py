"""A real S3 server as a process of its own; as a script it prints its port.

One request at a time, as conditional puts are atomic in S3 and are not between threads of this server.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def s3_at(host: str, failing: float = 0.0) -> Iterator[str]:
    """Give the URL of a server that listens at an address of this machine.

    A share of the writes fails, `failing`: half of them are not done, of the others only the answer is lost.
    """
    command = [sys.executable, __file__, host, str(failing)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://{host}:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def s3_variables(url: str) -> dict[str, str]:
    """Return the environment variables that clients of a server need."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIEXAMPLEKEY",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def main(host: str = "127.0.0.1", failing: str = "0") -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    served, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
    draws = random.Random(1)

    def one_by_one(environ, start_response):
        with lock:
            write = environ["REQUEST_METHOD"] in ("PUT", "POST")
            if write and draws.random() < float(failing):
                if draws.random() < 0.5:
                    list(served(environ, lambda *_: None))
                start_response("503 Slow Down", [("Content-Length", "0")])
                return [b""]
            return list(served(environ, start_response))

    server = make_server(host, 0, one_by_one, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
