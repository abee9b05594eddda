"""The prompt files, filled in.

Every prompt below is a file of this folder with `$field`s. All fields are text and all must be given, no others.

| prompt | fields |
|---|---|
| `system` | `template_system` |
| `idea` | `task`, `direction`, `code`, `metrics`, `may_change`, `archive`, `guidance`, `parent`, `number`, `total` |
| `reflection` | `idea`, `archive`, `round`, `rounds` |
| `novelty_query` | `idea`, `task`, `found`, `round`, `rounds` |
| `novelty_decision` | `idea`, `task`, `found`, `facts` |
| `coder` | `title`, `experiment`, `task`, `may_change`, `run`, `runs`, `editable`, `history`, `failure`, `guidance` |
| `plot` | `title`, `experiment`, `runs`, `failure` |
| `notes` | `title`, `run`, `output`, `facts` |
| `title` | `idea`, `abstract`, `facts` |
| `section` | `subject`, `title`, `written`, `notes`, `facts`; `tips` is added from `tips_<subject>.md` |
| `refine` | `subject`, `draft`, `problems`, `facts` |
| `citation` | `draft`, `cited`, `most` |
| `review` | `paper`, `examples`, `facts` |
| `judge` | `instructions`, `kind`, `text` |

`facts` is JSON made by the platform. What comes from experiments, the web or a paper under review stands in
`<untrusted>`; a value cannot close such a fence, since the tags used here are taken out of every value.
"""

from __future__ import annotations

import functools
import hashlib
import re
import string
from importlib import resources

from fumehood.ports import Prompt

_NAME = re.compile(r"^[a-z][a-z_]*$")
_TAGS = re.compile(r"<(?=/?(?:untrusted|facts|draft)\b)", re.IGNORECASE)


class PackagedPrompts:
    """The prompts that come with the platform."""

    def render(self, name: str, **fields: str) -> Prompt:
        """Fill in a prompt; `KeyError` for an unknown name, a field left open or one that it does not have."""
        return render(name, **fields)


def render(name: str, /, **fields: str) -> Prompt:
    """Fill in a prompt; `KeyError` for an unknown name, a field left open or one that it does not have."""
    text = _read(name)
    if name == "section" and "tips" not in fields:
        fields["tips"] = _read(f"tips_{fields['subject']}").strip()
    template = string.Template(text)
    if strange := sorted(set(fields) - set(template.get_identifiers())):
        raise KeyError(f"The prompt {name!r} has no field {strange[0]!r}.")
    filled = template.substitute({field: _safe(field, value) for field, value in fields.items()})
    return Prompt(text=filled, sha256=hashlib.sha256(text.encode()).hexdigest())


@functools.cache
def _read(name: str) -> str:
    file = resources.files("fumehood.llm.prompts").joinpath(f"{name}.md")
    if not _NAME.match(name) or not file.is_file():
        raise KeyError(f"There is no prompt named {name!r}.")
    return file.read_text(encoding="utf-8")


def _safe(field: str, value: str) -> str:
    if field == "facts":
        # In JSON `<` stands in texts only, where its escape means the same.
        return value.replace("<", "\\u003c")
    return _TAGS.sub("&lt;", value)
