"""A real HTTP server in the test process that speaks OpenAI's chat completions, well or badly, as it is told to."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Reply = dict[str, Any]


@dataclass
class Server:
    """What the server is told and what it saw.

    say: (prompt, image or None) -> the reply's text.
    faults: what becomes of the next requests, one each: "429", "503", "400 text", "truncated", "no json", "empty",
        "no choices", "hang", JSON that is sent as it is with status 200; "" answers.
    """

    say: Callable[[str, Image.Image | None], str] = lambda prompt, image: "A"
    likely: dict[str, float] | None = None  # next token -> probability
    faults: list[str] = field(default_factory=list)
    fails: Callable[[str], str] = lambda prompt: ""  # the fault of a prompt, every time
    retry_after: str | None = None
    pause_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: Any = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any]) -> Reply:
        prompt, image = read(body)
        choice: Reply = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": self.say(prompt, image)}
        if body.get("logprobs") and self.likely is not None:
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in self.likely.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: body.get("top_logprobs", 0)]}]}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice],
                "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}}  # fmt: skip


def read(body: dict[str, Any]) -> tuple[str, Image.Image | None]:
    """The prompt and the image of a request, as the protocol has them."""
    (message,) = body["messages"]
    parts = {part["type"]: part for part in message["content"]}
    image = None
    if "image_url" in parts:
        head, _, data = parts["image_url"]["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
    return parts["text"]["text"], image


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            with server.lock:
                server.bodies.append(body)
                server.times.append(time.monotonic())
                server.keys.add(self.headers["Authorization"])
                fault = server.faults.pop(0) if server.faults else server.fails(read(body)[0])
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                time.sleep(server.pause_s)
                self.answer(fault, body)
            finally:
                with server.lock:
                    server.at_once -= 1

        def answer(self, fault: str, body: dict[str, Any]) -> None:
            status, content = 200, json.dumps(server.reply(body)).encode()
            if fault[:3].isdigit():
                status = int(fault[:3])
                content = json.dumps({"error": {"message": fault[4:] or "for now", "code": status}}).encode()
            elif fault == "no json":
                content = content[:40]
            elif fault == "empty":
                content = b""
            elif fault == "no choices":
                content = json.dumps({**server.reply(body), "choices": []}).encode()
            elif fault.startswith("{"):
                content = fault.encode()
            elif fault == "hang":
                time.sleep(3)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 429 and server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked may be gone
                self.wfile.write(content[:40] if fault == "truncated" else content)
            if fault == "truncated":
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
