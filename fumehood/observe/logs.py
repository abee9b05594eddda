"""One way to log for every process: lines for people, or JSON lines for machines, to standard error.

python-json-logger writes the JSON: it is a formatter of the standard library's logging, which all of our code and every
library we use speaks already, so there is no second way to log beside it.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from fumehood.observe import context
from fumehood.observe.secrets import Mask, secrets_of
from fumehood.settings import Settings

OURS = "fumehood"
"""Loggers of ours begin with this; of others only warnings are heard, since some tell addresses with their query."""
_LOG = logging.getLogger("fumehood.process")
# What was given from outside neither begins a line of its own nor moves a terminal's cursor.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {10: "\\n", 13: "\\r", 9: "\\t"}


def set_up(settings: Settings) -> None:
    """Send everything that is logged in this process to standard error, in the form that the settings ask for."""
    mask = Mask(secrets_of(settings))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(mask) if settings.log_format == "json" else Lines(mask))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(OURS).setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _broke
    threading.excepthook = _thread_broke


class Lines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO fumehood.steps: begin: done in 0.01 s [direction=dir_... step=step_...]`."""

    converter = staticmethod(time.gmtime)

    def __init__(self, mask: Mask) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._mask = mask

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Return the time with its milliseconds."""
        return f"{super().formatTime(record, datefmt)}.{int(record.msecs):03d}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line with the ids of the work in hand."""
        told = " ".join(f"{name}={value}" for name, value in context.ids().items())
        line = super().formatMessage(record) + (f" [{told}]" if told else "")
        return line.translate(_CONTROLS)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the trace below it, without secrets."""
        return self._mask(super().format(record))


class JsonLines(JsonFormatter):
    """One JSON object a line: `ts`, `level`, `logger`, `message`, the ids of the work in hand, and what was added."""

    def __init__(self, mask: Mask) -> None:
        names = {"levelname": "level", "name": "logger"}
        super().__init__(["levelname", "name", "message"], rename_fields=names, timestamp="ts")
        self._mask = mask

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Return the line's fields with the ids, in order, and without secrets."""
        first = {"ts": log_data.pop("ts").isoformat(timespec="milliseconds")}
        return {name: self._shown(value) for name, value in {**first, **log_data, **context.ids()}.items()}

    def _shown(self, value: object) -> object:
        if isinstance(value, Mapping):
            return {str(name): self._shown(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._shown(inner) for inner in value]
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        return self._mask(value if isinstance(value, str) else repr(value))


def _broke(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _LOG.critical("the process broke: %s", error, exc_info=(kind, error, trace))


def _thread_broke(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        _LOG.critical("a thread broke: %s", told.exc_value, exc_info=told.exc_value)
