"""What a field may bring into a prompt: how long it may be, and that it never leaves the fence it stands in.

The prompt files put the fences: `<untrusted from="...">` around what programs, searches, papers and people wrote,
`<facts>` around JSON of the platform's, `<draft>` around a part of a paper. A value cannot open or close one, by
whatever characters it tries: what cannot be seen is taken out of it, and every sign that looks like the beginning of
a tag is written as `&lt;`. In JSON such signs are escaped, which means the same there.
"""

from __future__ import annotations

import re
import unicodedata

from fumehood.errors import WorkFailedError

LONGEST: dict[str, int] = {
    "abstract": 8_000,
    "archive": 120_000,
    "cited": 20_000,
    "code": 80_000,
    "direction": 20_000,
    "draft": 60_000,
    "editable": 4_000,
    "examples": 60_000,
    "experiment": 9_000,
    "facts": 400_000,
    "failure": 6_000,
    "found": 40_000,
    "guidance": 60_000,
    "history": 40_000,
    "idea": 12_000,
    "instructions": 20_000,
    "kind": 100,
    "may_change": 4_000,
    "metrics": 8_000,
    "most": 20,
    "notes": 40_000,
    "number": 20,
    "output": 6_000,
    "paper": 250_000,
    "parent": 20_000,
    "problems": 12_000,
    "round": 20,
    "rounds": 20,
    "run": 20,
    "runs": 20_000,
    "subject": 40,
    "task": 20_000,
    "template_system": 8_000,
    "text": 100_000,
    "tips": 2_000,
    "title": 300,
    "total": 20,
    "written": 200_000,
}
"""In characters, for every field of every prompt."""
ITEM = 12_000
"""Characters of one item of a field that grows, such as one idea of the archive."""
ENDS_COUNT = frozenset({"failure", "history", "output", "notes", "written"})
"""Fields whose end says more than their beginning."""
ON_A_LINE = frozenset({"title", "kind", "subject", "run", "round", "rounds", "number", "total", "most", "editable"})
"""Fields that stand within a sentence of ours."""
_TAGS = (
    *("untrusted", "facts", "draft", "system", "user", "human", "assistant", "instruction", "tool", "function"),
    *("invoke", "antml", "answer", "result"),
)
_OPENS = "<\u02c2\u1438\u2039\u2329\u276c\u276e\u27e8\u27ea\u29fc\u3008\u300a\ufe64\uff1c\u00ab\u226a\u227a"
_AT_TAG = re.compile(f"[{_OPENS}]")
_LOOKS = 48
"""Characters after such a sign that are looked at."""
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_PAIRS = "аαɑ=a сϲ=c ԁɗ=d еєεҽ=e ғϝẝ=f іιıɩ=i κк=k ӏ|=l мϻ=m пոηɴ=n оοσօ=o рρ=p гɾʀ=r ѕꜱ=s тτᴛ=t υսцʋμ=u νѵ=v уγ=y"  # noqa: RUF001
_LIKE = str.maketrans({char: pair[-1] for pair in _PAIRS.split() for char in pair[:-2]})
"""Letters of other scripts that pass for ours."""


def field(name: str, value: str) -> str:
    """Return a field's value as it may stand in a prompt; `KeyError` for a field that has no limit."""
    most = LONGEST[name]
    if name == "facts":
        return _json(value, most)
    if name in ON_A_LINE:
        value = " ".join(value.split())
    return harmless(cut(value, most, ends=name in ENDS_COUNT))


def items(name: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the items of a field that grows; where they are too many, the oldest are left out."""
    shown = [harmless(cut(one.strip("\n"), ITEM, ends=name in ENDS_COUNT)) for one in values if one.strip()]
    kept: list[str] = []
    left = LONGEST[name]
    for one in reversed(shown):
        left -= len(one)
        if left < 0 and kept:
            kept.append("[what came before is left out]")
            break
        kept.append(one)
    return tuple(reversed(kept))


def cut(text: str, most: int, *, ends: bool = False) -> str:
    """Return a text that is not longer than `most` and a remark; its beginning, or its end where that counts."""
    if len(text) <= most:
        return text
    told = f"[{len(text) - most} characters left out]"
    return f"{told}\n{text[-most:]}" if ends else f"{text[:most]}\n{told}"


def harmless(text: str) -> str:
    """Return a text that opens and closes no fence, and hides nothing."""
    text = "".join(map(_seen, text.replace("\r\n", "\n")))
    return _AT_TAG.sub(lambda match: "&lt;" if _is_tag(text, match.end()) else match[0], text)


def _seen(char: str) -> str:
    if " " <= char <= "~" or char in "\n\t":
        return char
    if char in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        return "\n"
    kind = unicodedata.category(char)
    if kind == "Cs":
        return "\ufffd"
    is_selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return "" if kind in {"Cc", "Cf", "Cn", "Co"} or is_selector or char in _FILLERS else char


def _is_tag(text: str, at: int) -> bool:
    """Whether what follows a bracket reads like the name of a tag, by whatever letters it is written."""
    ahead = unicodedata.normalize("NFKD", text[at : at + _LOOKS])
    if ahead.startswith("="):
        return False  # a comparison
    letters = "".join(char for char in ahead if not unicodedata.combining(char))
    word = re.sub(r"[^a-z]", "", letters.casefold().translate(_LIKE))
    return word.startswith(_TAGS)


def _json(value: str, most: int) -> str:
    if len(value) > most:
        raise WorkFailedError(
            f"The facts have {len(value)} characters, and a model is shown {most} at most: "
            "the experiment reports too many metrics or data sets."
        )
    # Outside ASCII, and for `<`, JSON has escapes that mean the same; such characters stand in texts only.
    return "".join(char if char != "<" and char.isascii() else _escaped(char) for char in value)


def _escaped(char: str) -> str:
    if char.isalnum() and char not in _OPENS:
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
