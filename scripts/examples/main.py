"""Runs every example of docs/publishing.md and docs/receivers.md against a running Zyven.

scripts/examples.sh has started PostgreSQL and Redis and set the environment; this starts `zyven all`.
"""

import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

PROGRAM, PROBE, API = os.environ["PROGRAM"], os.environ["PROBE"], os.environ["API"]
DOCS, PACKAGES, PSQL = Path(os.environ["DOCS"]), Path(os.environ["PACKAGES"]), os.environ["PSQL"]
SCRIPTS = Path(__file__).parent

READY_S_MAX = 30
# A debug build on a busy machine; Rust's and Go's examples are compiled within this, too.
EXAMPLE_S_MAX = 300
ARRIVAL_S_MAX = 60

# Those that repeat what is answered 503. The one for CloudEvents is about something else, and SQL has no answers.
REPEAT = ("curl", "Python", "Node", "Go", "Rust")
# What is put in front of a receiver's work: the first event fails, and must not be taken for seen.
FAILING = {
    "the receiver in Python": (
        "    print(event_type, event)",
        "    if not os.path.exists('failed'):\n        open('failed', 'w').close()\n        raise OSError('away')\n",
    ),
    "the receiver in JavaScript": (
        "  console.log(type, JSON.stringify(event));",
        "  if (!globalThis.failed) { globalThis.failed = true; throw new Error('away'); }\n",
    ),
}
SDK_RECEIVER = "the receiver of CloudEvents in JavaScript"
CLOUD_EVENTS = ("CloudEvents", "CloudEvents in SQL")

SETTINGS = {name: value for name, value in os.environ.items() if name.startswith("ZYVEN_")}
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **SETTINGS}

started: list[subprocess.Popen] = []


def fail(message: str):
    sys.exit(f"examples: {message}")


def blocks(page: str, heading: str, language: str) -> list[str]:
    """The blocks in that language below a heading of a page, before the next heading of its rank or above."""
    rank = heading.split(" ")[0]
    found, inside, block = [], False, None
    for line in (DOCS / page).read_text().splitlines():
        if block is not None:
            if line == "```":
                found.append(block)
                block = None
            else:
                block["text"] += line + "\n"
        elif line.startswith("```"):
            block = {"language": line[3:], "text": "", "inside": inside}
        elif line == heading:
            inside = True
        elif line.startswith("#") and len(line.split(" ")[0]) <= len(rank):
            inside = False
    texts = [block["text"] for block in found if block["inside"] and block["language"] == language]
    return texts or fail(f"docs/{page} has no {language} below {heading!r}")


def block(page: str, heading: str, language: str) -> str:
    return blocks(page, heading, language)[0]


class Running:
    """A process whose standard output is read line by line."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: str):
        self.name, self.lines, self.said = name, queue.Queue(), []
        self.process = subprocess.Popen(
            command, env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(self.process)
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.said.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def line(self, seconds_max: float) -> str:
        try:
            line = self.lines.get(timeout=seconds_max)
        except queue.Empty:
            fail(f"{self.name} says nothing within {seconds_max} s; before: {''.join(self.said)}")
        if line is None:
            fail(f"{self.name} has ended: {''.join(self.said)}")
        return line


class Capture(http.server.BaseHTTPRequestHandler):
    """Keeps requests as they arrive, for the examples that are no servers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.put((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Weary(http.server.BaseHTTPRequestHandler):
    """Stands in front of the API, and answers every second request 503 before it passes it on."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        if self.server.asked % 2 == 1:
            return self.answer(503, {"Retry-After": "1"}, b"")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        request = urllib.request.Request(f"{API}{self.path}", body, headers)
        with urllib.request.urlopen(request, timeout=15) as passed:
            self.answer(passed.status, {"Content-Type": passed.headers["content-type"]}, passed.read())

    def answer(self, status: int, headers: dict, body: bytes):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def weary() -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Weary)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def capture() -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Capture)
    server.requests = queue.Queue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def free_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), None) as server:
        return server.server_port


def zyven(*arguments: str) -> str:
    done = subprocess.run([PROGRAM, *arguments], env=ENVIRONMENT, text=True, capture_output=True)
    if done.returncode != 0:
        fail(f"zyven {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def start_stack():
    stack = Running("zyven all", [PROGRAM, "all"], ENVIRONMENT, "/")
    end = time.monotonic() + READY_S_MAX
    while True:
        try:
            urllib.request.urlopen(f"{PROBE}/readyz", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end or stack.process.poll() is not None:
                fail(f"zyven all does not get ready: {''.join(stack.said)}")
            time.sleep(0.1)


def endpoint(key: str, port: int, **members) -> dict:
    body = json.dumps({"url": f"http://127.0.0.1:{port}/", "event_types": ["*"], **members}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{API}/v1/endpoints", body, headers), timeout=15) as answer:
        return json.load(answer)


def start_receivers(key: str, folder: str) -> list[Running]:
    """The receivers of docs/receivers.md that are servers, each with an endpoint of its own."""
    receivers = []
    # Node finds packages by where a file is.
    modules = PACKAGES / "node"
    for name, heading, language, port_written, place, command in (
        ("the receiver in Python", "### Python", "python", "9000", Path(folder) / "receiver.py", [sys.executable, "-u"]),
        ("the receiver in JavaScript", "### JavaScript", "js", "9001", modules / "receiver.mjs", ["node"]),
        (SDK_RECEIVER, "## CloudEvents", "js", "9002", modules / "cloud-events.mjs", ["node"]),
    ):
        port = free_port()
        text = block("receivers.md", heading, language)
        if port_written not in text:
            fail(f"{name} does not listen on {port_written}")
        if name in FAILING:
            work, failing = FAILING[name]
            if text.count(work) != 1:
                fail(f"{name} does not say {work!r} once")
            text = text.replace(work, failing + work)
        place.write_text(text.replace(port_written, str(port)))
        secret = endpoint(key, port, retry_base_ms=100)["secret"]
        running = Running(name, [*command, str(place)], {**ENVIRONMENT, "ZYVEN_SECRET": secret}, folder)
        receivers.append(running)
    return receivers


def publishers(tenant: str, folder: str):
    """Each publisher's name, its command, and how many events it publishes."""

    def written(file: str, text: str) -> str:
        place = Path(folder) / file
        place.write_text(text)
        return str(place)

    yield "curl", ["sh", written("publish.sh", block("publishing.md", "## curl", "sh"))], 1
    yield "Python", [sys.executable, written("publish.py", block("publishing.md", "## Python", "python"))], 1
    yield "Node", ["node", written("publish.mjs", block("publishing.md", "## Node", "js"))], 1
    if shutil.which("go"):
        yield "Go", ["go", "run", written("publish.go", block("publishing.md", "## Go", "go"))], 1
    else:
        print("examples: SKIPPED, as there is no Go: the example in Go")
    package = PACKAGES / "rust"
    (package / "src").mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPTS / "Cargo.toml", package)
    (package / "src/main.rs").write_text(block("publishing.md", "## Rust", "rust"))
    yield "Rust", ["cargo", "run", "--quiet", "--manifest-path", str(package / "Cargo.toml")], 1
    psql = [PSQL, "-Xqt", "-v", "ON_ERROR_STOP=1", "-v", f"tenant={tenant}", os.environ["ZYVEN_DATABASE_URL"], "-f"]
    yield "SQL", [*psql, written("publish.sql", block("publishing.md", "## SQL", "sql"))], 1
    cloud = written("cloud_events.py", block("publishing.md", "## CloudEvents", "python"))
    yield "CloudEvents", [sys.executable, cloud], 2
    yield "CloudEvents in SQL", [*psql, written("cloud_events.sql", block("publishing.md", "## CloudEvents", "sql"))], 1


def publish(name: str, command: list[str], key: str, events: int, front: http.server.HTTPServer) -> list[str]:
    url = f"http://127.0.0.1:{front.server_port}" if name in REPEAT else API
    environment = {**ENVIRONMENT, "ZYVEN_API_URL": url, "ZYVEN_API_KEY": key, "GOCACHE": str(PACKAGES / "go"), "GO111MODULE": "off"}
    # Cargo's place, and the toolchain it was called with, are the caller's.
    environment.update({name: value for name, value in os.environ.items() if name.startswith(("CARGO_HOME", "RUSTUP_"))})
    environment.pop("CARGO_TARGET_DIR", None)
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=EXAMPLE_S_MAX, cwd="/")
    ids = re.findall(r"evt_[0-9a-f]{32}", done.stdout)
    if done.returncode != 0 or len(ids) != events:
        fail(f"the example for {name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return ids


def verify_by_hand(secret: str, headers: dict, body: bytes, folder: str):
    (Path(folder) / "body.bin").write_bytes(body)
    by_hand = {"id": headers["webhook-id"], "timestamp": headers["webhook-timestamp"], "secret": secret}
    text = block("receivers.md", "### By hand", "sh")
    done = subprocess.run(["sh", "-c", text], env={**ENVIRONMENT, **by_hand}, cwd=folder, text=True, capture_output=True)
    if f"v1,{done.stdout.strip()}" != headers["webhook-signature"]:
        fail(f"by hand: {done.stdout}{done.stderr} is not {headers['webhook-signature']}")


def function(page: str, heading: str, name: str):
    """A function that an example defines."""
    place: dict = {}
    exec(next(text for text in blocks(page, heading, "python") if f"def {name}(" in text), place)
    return place[name]


def main(folder: str):
    zyven("migrate")
    tenant = json.loads(zyven("admin", "create-tenant", "examples", "--json"))
    key, tenant_id = tenant["api_key"], tenant["tenant_id"]
    start_stack()
    receivers = start_receivers(key, folder)
    shared, pair = capture(), capture()
    secret = endpoint(key, shared.server_port)["secret"]
    public_key = endpoint(key, pair.server_port, signing="ed25519")["public_key"]
    verify = function("receivers.md", "### With a public key", "verify")
    read = function("receivers.md", "## CloudEvents", "read")
    front = weary()
    for name, command, events in publishers(tenant_id, folder):
        published = publish(name, command, key, events, front)
        arrived, verified = set(), set()
        for _ in published:
            for receiver in receivers:
                line = receiver.line(ARRIVAL_S_MAX)
                if not ("invoice.paid" in line and "4200" in line):
                    fail(f"{receiver.name} says {line}")
                # By source and subject the SDK shows that it has read the event, and not just its data.
                if receiver.name == SDK_RECEIVER and line.startswith("CloudEvent invoice.paid /billing INV-1001") != (name in CLOUD_EVENTS):
                    fail(f"{receiver.name} says of what {name} has published: {line}")
            headers, body = shared.requests.get(timeout=ARRIVAL_S_MAX)
            verify_by_hand(secret, headers, body, folder)
            arrived.add(headers["webhook-id"])
            signed, text = pair.requests.get(timeout=ARRIVAL_S_MAX)
            if not verify(public_key, signed, text) or verify(public_key, signed, text + b" "):
                fail(f"the public key does not verify what {name} has sent, or verifies anything")
            verified.add(signed["webhook-id"])
            sent_as = "application/cloudevents+json" if name in CLOUD_EVENTS else "application/json"
            if headers["content-type"] != sent_as:
                fail(f"what {name} has published arrives as {headers['content-type']}")
            if name in CLOUD_EVENTS:
                event = read(headers, body)
                if (event.get_id()[:9], event.get_data()["amount"]) != ("paid-1001", 4200):
                    fail(f"the SDK reads {event}")
        if not arrived == verified == set(published):
            fail(f"{name} has published {published}; {arrived} have arrived")
        repeated = ", after a 503," if name in REPEAT else ","
        print(f"examples: {name}: published{repeated} arrived, verified by every receiver")


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with tempfile.TemporaryDirectory() as temporary:
    try:
        main(temporary)
    finally:
        for process in started:
            process.kill()
