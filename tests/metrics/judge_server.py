"""A chat-completions endpoint on the loopback interface that judges by first words, and misbehaves on demand."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAGGED = re.compile(r"<(prompt|first|second) ([0-9a-f]{16})>\n(.*)\n</\1 \2>", re.DOTALL)


def texts_of(body):
    """What stands between the tags of a request: prompt, first, second."""
    user = body["messages"][-1]["content"]
    code = re.match(r"<prompt ([0-9a-f]{16})>", user).group(1)
    return {name: re.search(rf"<{name} {code}>\n(.*)\n</{name} {code}>", user, re.DOTALL).group(1)
            for name in ("prompt", "first", "second")}


def same_first_word(body):
    texts = texts_of(body)
    return texts["first"].split()[0] == texts["second"].split()[0]


def completion(content, finish_reason="stop"):
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


# ------------------------------------------------------------------------------------------------------- behaviours


def judges(handler, body):
    handler.reply(completion("SAME" if handler.server.rule(body) else "DIFFERENT"))


def says(content, finish_reason="stop"):
    return lambda handler, body: handler.reply(completion(content, finish_reason))


def status(code, text="no", **headers):
    return lambda handler, body: handler.reply(text, code, {k.replace("_", "-"): v for k, v in headers.items()})


def raw(text):
    return lambda handler, body: handler.reply(text)


def waits(seconds):
    """Answers too late."""
    def act(handler, body):
        time.sleep(seconds)
        judges(handler, body)
    return act


def drips(handler, body):
    """Sends a byte now and then, and a verdict at long last."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.02)
    handler.wfile.write(json.dumps(completion("SAME")).encode())
    handler.close_connection = True


def drips_headers(handler, body):
    """Sends its headers a byte now and then: each read succeeds, the whole never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)
    handler.close_connection = True


def resets(handler, body):
    """Ends the connection with a TCP reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())  # close() would wait for the handler's own files
    handler.close_connection = True


def breaks_off(handler, body):
    """Promises more bytes than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


# ----------------------------------------------------------------------------------------------------------- server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes, the second of which would wait 40 ms

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.log.append({"path": self.path, "headers": dict(self.headers), "body": body})
            key = json.dumps(body["messages"])
            number = self.server.tries[key] = self.server.tries.get(key, 0) + 1
            act = self.server.choose(len(self.server.log), number)
        try:
            act(self, body)
        except OSError:
            self.close_connection = True

    def reply(self, content, code=200, headers=None):
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


@dataclass
class Endpoint:
    """``choose(n, attempt)`` picks the behaviour of the n-th request, the attempt-th with its content; both from 1."""

    url: str
    server: _Server
    log: list = field(default_factory=list)

    def behave(self, choose):
        self.server.choose = choose

    def forget(self):
        self.log.clear()
        self.server.tries.clear()


@contextmanager
def endpoint(rule=same_first_word):
    server = _Server(("127.0.0.1", 0), _Handler)
    made = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", server)
    server.lock, server.log, server.tries, server.rule = threading.Lock(), made.log, {}, rule
    server.choose = lambda n, attempt: judges
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
