"""Searching for a pattern within a time limit.

Some patterns take longer than anybody waits on a text made for it, and Python's `re` cannot be told to stop: so it
searches in a process of its own, which can.
"""

from __future__ import annotations

import json
import subprocess
import sys

SEARCH_S = 10.0
"""An ordinary search takes a few milliseconds; the rest is for a machine that is busy."""
_PROGRAM = """
import json, re, sys
pattern, text = json.load(sys.stdin)
sys.exit(10 + bool(re.search(pattern, text, re.IGNORECASE | re.MULTILINE)))
"""
_FOUND, _NOT_FOUND = 11, 10


def search(pattern: str, text: str, *, limit_s: float = SEARCH_S) -> bool:
    """Say whether a pattern is found, in any case and with `^` and `$` at lines; `TimeoutError` when nobody can say."""
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    # Escaped as ASCII, so that no locale has a say and no lone surrogate stops it.
    given = json.dumps([pattern, text]).encode()
    try:
        status = subprocess.run(
            command, input=given, timeout=limit_s, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}
        ).returncode
    except (subprocess.TimeoutExpired, OSError) as error:
        raise TimeoutError("the search was not done in time") from error
    if status not in {_FOUND, _NOT_FOUND}:
        raise TimeoutError(f"the search ended with status {status}")
    return status == _FOUND
