"""A local stand-in for the Hugging Face hub: its answers to an upload of small files."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class Hub(BaseHTTPRequestHandler):
    """Answer an upload as the hub does, and keep what was sent."""

    def do_GET(self) -> None:
        """Answer clients before 1.0, which ask how to send large files."""
        if self.path.startswith("/api/models/me/mine/revision/main"):
            self._answer({"id": "me/mine", "xetEnabled": False})
        else:
            self._answer({}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub: Any = self.server
        hub.asked.append((self.path, self.headers["Authorization"]))
        here = f"http://127.0.0.1:{hub.server_port}"
        if hub.refuses:
            self._answer({"error": "no"}, 500)
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self._answer({"url": f"{here}/me/mine"})
        elif self.path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif self.path == "/api/models/me/mine/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._answer({"files": files})
        elif self.path == "/api/models/me/mine/commit/main":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    file = entry["value"]
                    hub.files[file["path"]] = base64.b64decode(file["content"])
            commit = {"commitUrl": f"{here}/me/mine/commit/1", "commitOid": "1" * 40}
            self._answer({"success": True, **commit})
        else:
            self._answer({}, 404)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
