# /// escape
# promise = "S2"
# trick = "It asks for a model, a role and a tenant that are not its own, in the body and in headers"
# network = "allow:llm"
# control = { local = ["model of the token"], docker = ["model of the token"] }
# gets = 2
# ///
import json
import urllib.request

from inside import attempt, told

OWN = told()["model"]


def ask(model: str, **headers: str) -> str:
    """Ask by the loopback door."""
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "?"}]}
    told = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    asked = urllib.request.Request("http://127.0.0.1:3128/llm/v1/messages", json.dumps(body).encode(), told)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(json.loads(answer.read())["model"])


attempt("a dearer model", lambda: ask("claude-opus-4-6"))
attempt("a model that is free", lambda: ask("offline"))
attempt("its own, by another case", lambda: ask(OWN.upper()))
attempt("by a header", lambda: ask("claude-opus-4-6", x_model="claude-opus-4-6", x_api_key="fhg_e30.e30"))
