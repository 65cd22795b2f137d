"""An endpoint for tests: answers each line of a POST with its length, and misbehaves as its path says.

    /ok         always well
    /flaky      503 with Retry-After: 0 for two requests of three
    /picky      400 if a line is "poison"
    /down       always 503
    /short      an answer for one line less
    /slow       answers after a second
"""
import http.server
import itertools
import sys
import time

numbers = itertools.count()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        lines, number = body.splitlines(), next(numbers)
        if self.headers["X-Token"] != "secret":
            return self.answer(401, "who are you?")
        if self.path == "/down" or (self.path == "/flaky" and number % 3 < 2):
            return self.answer(503, "busy", {"Retry-After": "0"})
        if self.path == "/picky" and "poison" in lines:
            return self.answer(400, "poison is no line")
        if self.path == "/slow":
            time.sleep(1)
        answers = [str(len(line)) for line in lines]
        self.answer(200, "\n".join(answers[:-1] if self.path == "/short" else answers))

    def answer(self, status, text, headers={}):
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
sys.stdin.close()
server.serve_forever()
