"""A small server on loopback that speaks OpenAI's chat completions as a test tells it to."""

import http.server
import json
import threading
from collections import Counter
from typing import Any

MODEL = "org/writer"


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
    }


def failure(status, message, **headers):
    return status, {"error": {"message": message, "type": "x", "code": status}}, headers


class Server:
    """A server whose chat completions a test defines, as `answer(body, attempt)`."""

    def __init__(self):
        self.answer = lambda body, attempt: completion("echo " + body["messages"][-1]["content"])
        self.models = lambda: (200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        self.bodies: list[Any] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self.active = self.peak = 0
        self._lock = threading.Lock()
        self._attempts: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _HttpServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def stop(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def respond(self, path, headers, body):
        with self._lock:
            self.paths.append(path)
        if path == "/v1/models":
            return self.models()
        if path != "/v1/chat/completions":
            return failure(404, "no such page")
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self._attempts[body["messages"][-1]["content"]] += 1
            attempt = self._attempts[body["messages"][-1]["content"]]
            self.active += 1
            self.peak = max(self.peak, self.active)
        try:
            return self.answer(body, attempt)
        finally:
            with self._lock:
                self.active -= 1


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *args):
        """A client that went away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10

    def do_GET(self):
        self._send(*self.owner.respond(self.path, self.headers, None))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.owner.respond(self.path, self.headers, body))

    def _send(self, status, content, headers=None):
        is_text = isinstance(content, str)
        data = content.encode() if is_text else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content_Type": "text/html" if is_text else "application/json"} | (headers or {})
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass
