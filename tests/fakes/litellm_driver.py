"""Asks through LiteLLM, in the coder's environment: a request in each line of input, its answer in one of output.

It imports only the standard library and LiteLLM, and has nothing of the platform.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    gc.disable()  # as in the platform's own driver, and for its reason
    for line in sys.stdin:
        gc.collect()
        try:
            told = ask(litellm, json.loads(line))
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            told = {"status": getattr(error, "status_code", None), "message": str(error), "kind": type(error).__name__}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def ask(litellm: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of one request as a completion, put together again where it was streamed."""
    # As the platform's own driver does, and for its reason.
    litellm.open_ai_chat_completion_models.discard(request["model"].partition("/")[2])
    reply = litellm.completion(**request, max_retries=0, timeout=60)
    if request.get("stream"):
        chunks = list(reply)
        whole = litellm.stream_chunk_builder(chunks, messages=request["messages"]).model_dump()
        # It puts the reason of the last chunk there, which has none.
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        whole["choices"][0]["finish_reason"] = next(filter(None, reversed(reasons)), None)
        return {"completion": whole}
    return {"completion": reply.model_dump()}


if __name__ == "__main__":
    main()
