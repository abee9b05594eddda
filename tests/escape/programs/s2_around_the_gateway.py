# /// escape
# promise = "S2"
# trick = "It asks the gateway to lead it elsewhere: by CONNECT, by a whole address, past the capability's name"
# network = "allow:semantic-scholar"
# control = { local = ["rules of the gateway"], docker = ["rules of the gateway"] }
# needs = ["listeners"]
# breaks = ["listeners"]
# gets = 2
# ///
import socket

from inside import got, refused, told

CANARY = f"127.0.0.1:{told()['port']}"
for name, words in {
    "connect": f"CONNECT {CANARY} HTTP/1.1\r\nHost: {CANARY}\r\n\r\n",
    "whole address": f"GET http://{CANARY}/graph/v1/paper/search HTTP/1.1\r\nHost: {CANARY}\r\n\r\n",
    "address in the path": f"GET /semantic-scholar/http://{CANARY}/ HTTP/1.1\r\nHost: egress\r\n\r\n",
    "user part": f"GET /semantic-scholar@{CANARY}/graph/v1/paper/search HTTP/1.1\r\nHost: egress\r\n\r\n",
    "up": "GET /semantic-scholar/graph/v1/paper/search/../../../../x HTTP/1.1\r\nHost: egress\r\n\r\n",
    "writes": "POST /semantic-scholar/graph/v1/paper/search HTTP/1.1\r\nHost: egress\r\nContent-Length: 2\r\n\r\nxx",
    "another path": "GET /semantic-scholar/graph/v1/paper/batch HTTP/1.1\r\nHost: egress\r\n\r\n",
}.items():
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
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
        (got if b" 200 " in said or b"canary" in said else refused)(name, said[:60])
