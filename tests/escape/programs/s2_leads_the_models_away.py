# /// escape
# promise = "S2"
# trick = "It asks the way to its model for another host, by CONNECT, a whole address or a header, and for other doors"
# network = "allow:llm"
# control = { local = ["rules of the gateway"], docker = ["rules of the gateway"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 3
# ///
import socket

from inside import got, refused, told

CANARY = f"127.0.0.1:{told()['port']}"
GATEWAY = f"127.0.0.1:{told()['gateway']}"


def get(target: str, host: str = "egress") -> str:
    """Return a request."""
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"


for name, words in {
    "connect": f"CONNECT {CANARY} HTTP/1.1\r\nHost: {CANARY}\r\n\r\n",
    "whole address": get(f"http://{CANARY}/llm/v1/models"),
    "another door, by a whole address": get(f"http://{GATEWAY}/healthz"),
    "a header": get("/llm/v1/models", CANARY).replace("\r\n\r\n", "\r\nX-Forwarded-Host: " + CANARY + "\r\n\r\n"),
    "two hosts": get("/llm/v1/models").replace("\r\n\r\n", f"\r\nHost: {CANARY}\r\n\r\n"),
    "user part": get(f"/llm@{CANARY}/v1/models"),
    "address in the path": get(f"/llm/http://{CANARY}/v1/models"),
    "no slash": get("/llmhealthz"),
    "health": get("/llm/healthz"),
    "up": get("/llm/v1/../healthz"),
    "up, written in percent": get("/llm/v1/%2e%2e/healthz"),
    "two slashes": get("/llm//healthz"),
    "a query": get("/llm/v1/models?x=/../../healthz"),
    "records": get("/llm/v1/calls"),
    "directions": get("/llm/v1/directions"),
    "figures": get("/llm/metrics"),
    "administration": get("/llm/v1/admin/keys"),
}.items():
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        try:
            stream.connect("/egress/socket")
            stream.sendall(words.encode())
            said = stream.recv(4096)
            if name == "connect" and b" 200 " in said:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                said = stream.recv(4096)
        except OSError as error:
            refused(name, error)
            continue
        # With a header only, it is answered as without, but by its own gateway.
        opens = b"canary" in said or (b" 200 " in said and name != "a header")
        (got if opens else refused)(name, said[:60])
