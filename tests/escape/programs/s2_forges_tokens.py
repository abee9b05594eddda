# /// escape
# promise = "S2"
# trick = "It reaches the gateway of models past the way that is given to it, with tokens that it made itself"
# network = "allow:llm"
# already = ["rules of the gateway"]
# control = { local = ["signature of tokens"], docker = ["signature of tokens"] }
# limits = { wall_s = 40 }
# ///
import base64
import hmac
import json
import socket
import time

from inside import got, refused, told

GATEWAY = f"http://127.0.0.1:{told()['gateway']}"
CLAIMS = {
    "tenant": "ten_1", "direction_id": "dir_1", "role": "idea", "model": told()["model"],
    "expires_at": time.time() + 600,
}  # fmt: skip
BODY = {"model": told()["model"], "max_tokens": 5, "messages": [{"role": "user", "content": "?"}]}


def written(claims: dict[str, object]) -> str:
    """Return claims as a token has them."""
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def signed(prefix: str, claims: dict[str, object], secret: bytes) -> str:
    """Return a token that was signed with a secret of our own."""
    body = written(claims)
    signature = hmac.digest(secret, (prefix + body).encode(), "sha256")
    return f"{prefix}{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def ask(key: str, target: str = "/v1/models", method: str = "GET", body: bytes = b"") -> bytes:
    """Return what the gateway says."""
    lines = [f"{method} {GATEWAY}{target} HTTP/1.1", "Host: gateway", "Connection: close", f"x-api-key: {key}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    said = b""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
        stream.connect("/egress/socket")
        stream.sendall("\r\n".join(lines).encode() + body)
        try:
            while part := stream.recv(65536):
                said += part
        except OSError:
            pass
    return said


tokens = {
    "no signature": f"fhg_{written(CLAIMS)}.",
    "nothing to sign with": signed("fhg_", CLAIMS, b""),
    "zeros": signed("fhg_", CLAIMS, bytes(32)),
    "an execution's, as another": signed("fhx_", {**CLAIMS, "role": "execution", "execution": "exec_1"}, bytes(32)),
    "its claims at the end": "fhg_e30." + json.dumps(CLAIMS).encode().hex(),
    "none": "",
}
for name, key in tokens.items():
    for method, target, body in (("GET", "/v1/models", b""), ("POST", "/v1/messages", json.dumps(BODY).encode())):
        said = ask(key, target, method, body)
        # What is told of a direction that there is not was told to one whose token holds.
        reached = b" 200 " in said[:20] or b"does not exist" in said
        (got if reached else refused)(f"{name}, {target}", said[:60])
for target in ("/v1/calls", "/v1/directions", "/metrics", "/docs", "/v1/admin/keys", "/v1/messages/batches", "/../etc"):
    said = ask(tokens["zeros"], target)
    (got if b" 200 " in said[:20] else refused)(target, said[:60])
