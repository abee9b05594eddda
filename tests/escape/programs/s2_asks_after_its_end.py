# /// escape
# promise = "S2"
# trick = "It asks its model on, after it is written down that it has ended"
# network = "allow:llm"
# host = "end"
# control = { local = ["end of the execution"], docker = ["end of the execution"] }
# ///
import json
import time
import urllib.error
import urllib.request

from inside import got, refused, say, told


def ask() -> int:
    """Return the status of one call."""
    body = {"model": told()["model"], "max_tokens": 5, "messages": [{"role": "user", "content": "?"}]}
    asked = urllib.request.Request(
        "http://127.0.0.1:3128/llm/v1/messages", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


say("asked", ask())
time.sleep(3)
status = ask()
(got if status == 200 else refused)("asks on", status)
