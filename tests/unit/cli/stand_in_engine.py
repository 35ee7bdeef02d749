"""A stand-in for `python -m services`: real process, real port, no engine. STAND_IN says how it behaves.

ready (default): healthy at once. late: unready for the first answers. dies: logs an error and exits 3 after its port
has answered "not ready" once. deaf: ready, and ignores SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = os.environ.get("STAND_IN", "ready")
answers = 0


class Operations(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        global answers
        answers += 1
        if self.path == "/tiers":
            self._reply(
                200,
                {
                    "tables": [
                        {
                            "table": "public.flights",
                            "tiers": {
                                "hot": {"rows": 1200, "bytes": 3_400_000, "files": 0},
                                "cold": {"rows": 5, "bytes": 10, "files": 2},
                            },
                        }
                    ]
                },
            )
        elif BEHAVIOUR == "dies":
            self._reply(503, {"healthy": False})
            print(json.dumps({"level": "info", "event": "starting"}), flush=True)
            print(json.dumps({"level": "error", "event": "log is unreachable", "url": "nats://x"}), flush=True)
            os._exit(3)
        elif BEHAVIOUR == "late" and answers < 4:
            self._reply(503, {"healthy": False})
        else:
            self._reply(200, {"healthy": True, "role": "leader"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.headers.get("Authorization", "").startswith("Basic "):
            self._reply(401, {"error": {"message": "password authentication failed", "code": "28P01"}})
        elif body["sql"] == "SELECT boom":
            self._reply(400, {"error": {"message": 'column "boom" does not exist', "code": "42703", "hint": "look"}})
        else:
            columns = [{"name": "n", "type": "integer"}, {"name": "word", "type": "text"}]
            self._reply(200, {"columns": columns, "rows": [[1, "one"], [22, None]], "tag": "SELECT 2", "row_count": 2})

    def _reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the log is what tests look at."""


def main() -> None:
    if sys.argv[1:] == ["refuse"]:
        print("Traceback (most recent call last):\nValueError: no such thing", file=sys.stderr)
        raise SystemExit(1)
    Path(os.environ["ORBIT_DATA_DIR"]).mkdir(parents=True, exist_ok=True)
    (Path(os.environ["ORBIT_DATA_DIR"]) / "password-given").write_text(os.environ["ORBIT_PASSWORD"])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if BEHAVIOUR == "deaf" else lambda *_: stop.set())
    for variable in ("METRICS_PORT", "ORBIT_REST_PORT"):
        server = ThreadingHTTPServer(("127.0.0.1", int(os.environ[variable])), Operations)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    stop.wait()


if __name__ == "__main__":
    main()
