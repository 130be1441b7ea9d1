"""Real clients through the real egress proxy. Started by scripts/real-clients.sh, which says where everything is."""

import asyncio
import atexit
import base64
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import httpx

FOLDER = Path(os.environ["FOLDER"])
CERTIFICATE = FOLDER / "certificate.pem"
EGRESS = f"127.0.0.1:{os.environ['EGRESS_PORT']}"
PROBE = f"127.0.0.1:{os.environ['PROBE_PORT']}"
CREDENTIAL = os.environ["CREDENTIAL"]
PATIENCE_S = 30

# What the name server knows. Any other name does not exist.
NAMES = {
    "hooks.example.com": ["127.0.0.1"],
    "private.example.com": ["10.0.0.1"],
    "mixed.example.com": ["127.0.0.1", "169.254.169.254"],
}
# 600 kB: more than the socket buffers on the way hold.
LARGE = bytes(range(256)) * 2400


class Checks:
    """Counts what was asked, so that the proxy's own counts can be compared with it."""

    def __init__(self):
        self.failures = []
        self.seen = 0

    def equal(self, what, found, expected):
        self.seen += 1
        if found != expected:
            self.failures.append(f"{what}: {found!r} instead of {expected!r}")


class Receiver(BaseHTTPRequestHandler):
    """Answers with the length and the digest of what it got."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["content-length"])))

    def answer(self, body):
        text = json.dumps({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def start_receiver(is_tls):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    if is_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, FOLDER / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def start_name_server():
    """A records over UDP, as RFC 1035 has them; every other type has none."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve():
        while True:
            query, caller = server.recvfrom(1500)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
                at += 1 + query[at]
            question = query[12 : at + 5]
            addresses = NAMES.get(".".join(labels))
            if struct.unpack("!H", query[at + 1 : at + 3])[0] != 1:
                records = []
            else:
                records = [
                    b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
                    for address in addresses or []
                ]
            flags = 0x8180 if addresses is not None else 0x8183
            head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
            server.sendto(head + question + b"".join(records), caller)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def start_proxy(name_server_port):
    log = open(FOLDER / "egress.log", "wb")
    # Proxies from the environment would send it nowhere, if it believed in them.
    nowhere = "http://127.0.0.1:1"
    environment = {
        "ZYVEN_EGRESS_LISTEN": EGRESS,
        "ZYVEN_PROBE_LISTEN": PROBE,
        "ZYVEN_EGRESS_CREDENTIAL": CREDENTIAL,
        "ZYVEN_EGRESS_ALLOW_CIDRS": "127.0.0.1/32",
        "ZYVEN_EGRESS_NAMESERVERS": f"127.0.0.1:{name_server_port}",
        **{name: nowhere for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"]},
    }
    proxy = subprocess.Popen([os.environ["PROGRAM"], "egress"], env=environment, stdout=log, stderr=log)
    # However this ends, the proxy ends with it.
    atexit.register(proxy.kill)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(os.environ["EGRESS_PORT"])), 1).close()
            return proxy
        except OSError:
            if proxy.poll() is not None or time.monotonic() > deadline:
                sys.exit("the egress proxy does not start:\n" + (FOLDER / "egress.log").read_text())
            time.sleep(0.05)


def decisions():
    """The proxy's count of each reason."""
    # Not through the proxy that this machine's environment may name.
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with directly.open(f"http://{PROBE}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    found = re.findall(r'^zyven_egress_decisions_total\{reason="(\w+)"\} (\d+)$', text, re.MULTILINE)
    return {reason: int(count) for reason, count in found if int(count) > 0}


def curl(*arguments, user=f"zyven:{CREDENTIAL}"):
    """Body, status of the endpoint, status of CONNECT, and the proxy's reason."""
    heads, body = FOLDER / "heads", FOLDER / "body"
    for file in (heads, body):
        file.write_bytes(b"")
    command = ["curl", "--silent", "--max-time", str(PATIENCE_S), "--noproxy", "", "--cacert", CERTIFICATE]
    command += ["--proxy", f"http://{EGRESS}", "--dump-header", heads, "--output", body]
    if user is not None:
        command += ["--proxy-user", user]
    command += ["--write-out", "%{http_code} %{http_connect}", *arguments]
    # No .netrc, no .curlrc, no proxy of the environment.
    environment = {"PATH": os.environ["PATH"], "HOME": str(FOLDER)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    code, connect = (int(word) for word in done.stdout.decode().split())
    reason = re.search(r"x-zyven-egress-reason: (\w+)", heads.read_text())
    return body.read_bytes(), code, connect, reason and reason.group(1)


def digest(body):
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def refused_targets(http_port):
    """Target, and how the proxy must refuse it."""
    return [
        ("10.0.0.1:80", 403, "denied_ip"),
        ("192.168.0.1:80", 403, "denied_ip"),
        ("169.254.169.254:80", 403, "denied_ip"),
        ("100.100.100.200:80", 403, "denied_ip"),
        ("127.0.0.2:80", 403, "denied_ip"),
        (f"127.0.0.1:{PROBE.split(':')[1]}", 403, "denied_ip"),
        (f"127.0.0.1:{EGRESS.split(':')[1]}", 403, "denied_ip"),
        ("[::1]:80", 403, "denied_ip"),
        ("[::ffff:169.254.169.254]:80", 403, "denied_ip"),
        ("[64:ff9b::a9fe:a9fe]:80", 403, "denied_ip"),
        (f"private.example.com:{http_port}", 403, "denied_ip"),
        (f"mixed.example.com:{http_port}", 403, "denied_ip"),
        ("printer.local:80", 403, "denied_host"),
        ("metadata.google.internal:80", 403, "denied_host"),
        ("backend:80", 403, "denied_host"),
        ("127.0.0.1:22", 403, "denied_port"),
        ("missing.example.com:80", 502, "dns_not_found"),
        ("127.0.0.1:1024", 502, "connect_failed"),
    ]


def check_curl(checks, expected, https_port, http_port):
    upload = FOLDER / "upload"
    upload.write_bytes(LARGE)
    for url, arguments in [
        (f"https://hooks.example.com:{https_port}/", []),
        (f"https://127.0.0.1:{https_port}/", []),
        (f"http://hooks.example.com:{http_port}/", ["--proxytunnel"]),
        (f"http://127.0.0.1:{http_port}/", ["--proxytunnel"]),
    ]:
        body, code, connect, _ = curl(*arguments, "--data-binary", f"@{upload}", url)
        checks.equal(f"curl {url}", (code, connect), (200, 200))
        checks.equal(f"curl {url}: body", json.loads(body or b"null"), digest(LARGE))
        expected["allowed"] = expected.get("allowed", 0) + 1

    for target, status, reason in refused_targets(http_port):
        _, code, connect, found = curl("--proxytunnel", f"http://{target}/")
        checks.equal(f"curl {target}", (code, connect, found), (0, status, reason))
        expected[reason] = expected.get(reason, 0) + 1

    url = f"http://127.0.0.1:{http_port}/"
    for user in [None, "zyven:wrong", "zyven:", f"zyven:{CREDENTIAL}x"]:
        _, code, connect, reason = curl("--proxytunnel", url, user=user)
        checks.equal(f"curl as {user}", (code, connect, reason), (0, 407, "credential_invalid"))
        expected["credential_invalid"] = expected.get("credential_invalid", 0) + 1
    # Without --proxytunnel curl asks the proxy to fetch the URL, which is not its trade.
    _, code, _, reason = curl(url)
    checks.equal("curl without a tunnel", (code, reason), (405, "method_not_allowed"))
    expected["method_not_allowed"] = expected.get("method_not_allowed", 0) + 1


def check_httpx(checks, expected, https_port, http_port):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    proxy = httpx.Proxy(f"http://{EGRESS}", auth=("zyven", CREDENTIAL))
    with httpx.Client(proxy=proxy, verify=context, trust_env=False, timeout=PATIENCE_S) as client:
        # Three requests, one tunnel.
        for _ in range(3):
            answer = client.post(f"https://hooks.example.com:{https_port}/", content=LARGE)
            checks.equal("httpx", (answer.status_code, answer.json()), (200, digest(LARGE)))
        expected["allowed"] += 1
        for target, status, reason in refused_targets(http_port):
            try:
                found = client.get(f"https://{target}/").status_code
            except httpx.ProxyError as error:
                found = int(str(error).split()[0])
            if target.startswith("["):
                # This client writes IPv6 addresses without brackets, which is no authority.
                status, reason = 400, "authority_invalid"
            checks.equal(f"httpx {target}", found, status)
            expected[reason] = expected.get(reason, 0) + 1
        answer = client.get(f"http://127.0.0.1:{http_port}/")
        checks.equal("httpx without a tunnel", answer.status_code, 405)
        expected["method_not_allowed"] += 1
    stranger = httpx.Proxy(f"http://{EGRESS}", auth=("zyven", "wrong"))
    with httpx.Client(proxy=stranger, verify=context, trust_env=False, timeout=PATIENCE_S) as client:
        try:
            found = client.get(f"https://hooks.example.com:{https_port}/").status_code
        except httpx.ProxyError as error:
            found = int(str(error).split()[0])
        checks.equal("httpx with a wrong password", found, 407)
        expected["credential_invalid"] += 1


async def check_aiohttp(checks, expected, https_port, http_port):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    through = {"proxy": f"http://{EGRESS}", "proxy_auth": aiohttp.BasicAuth("zyven", CREDENTIAL), "ssl": context}
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        url = f"https://hooks.example.com:{https_port}/"
        async with session.post(url, data=LARGE, **through) as answer:
            checks.equal("aiohttp", (answer.status, await answer.json()), (200, digest(LARGE)))
            expected["allowed"] += 1
        for target, status, reason in refused_targets(http_port):
            try:
                async with session.get(f"https://{target}/", **through) as answer:
                    found = answer.status
            except aiohttp.ClientHttpProxyError as error:
                found = error.status
            checks.equal(f"aiohttp {target}", found, status)
            expected[reason] += 1


def check_spellings(checks, expected):
    """What the clients above would repair before they send it."""
    token = base64.b64encode(f"zyven:{CREDENTIAL}".encode()).decode()
    for target in ["2130706433:80", "127.1:80", "0x7f.0.0.1:80", "0177.0.0.1:80", "example.com.:80", "[fe80::1%25lo]:80"]:
        with socket.create_connection(("127.0.0.1", int(os.environ["EGRESS_PORT"])), PATIENCE_S) as stream:
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {token}\r\n\r\n"
            stream.sendall(head.encode())
            answer = stream.makefile("rb").read().decode()
        checks.equal(f"raw {target}", answer.split()[1], "400")
        expected["authority_invalid"] = expected.get("authority_invalid", 0) + 1


def main():
    # What is registered for the end would not run otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    https_port, http_port = start_receiver(True), start_receiver(False)
    proxy = start_proxy(start_name_server())
    checks, expected = Checks(), {}
    try:
        check_curl(checks, expected, https_port, http_port)
        check_httpx(checks, expected, https_port, http_port)
        asyncio.run(check_aiohttp(checks, expected, https_port, http_port))
        check_spellings(checks, expected)
        checks.equal("decisions counted", decisions(), expected)
    finally:
        proxy.terminate()
        proxy.wait(PATIENCE_S)
    log = (FOLDER / "egress.log").read_text()
    lines = [line for line in log.splitlines() if "zyven_egress::decision" in line]
    checks.equal("decision lines", len(lines), sum(expected.values()))
    checks.equal("the credential in the log", CREDENTIAL in log, False)
    resolved = [line for line in lines if "private.example.com" in line and "10.0.0.1" in line]
    checks.equal("resolved addresses in the log", resolved, [])
    if checks.failures:
        sys.exit("real clients: " + "\n".join(checks.failures) + "\n" + "\n".join(log.splitlines()[-20:]))
    print(f"real clients: curl, httpx and aiohttp, {sum(expected.values())} requests, {checks.seen} checks, all in order")


main()
