"""What a field may bring into a prompt: how long it may be, and that it never leaves the fence it stands in.

The prompt files put the fences: `<untrusted from="...">` around what programs, searches, papers and people wrote,
`<facts>` around JSON of the platform's, `<draft>` around a part of a paper. A value cannot open or close one, by
whatever characters it tries: what cannot be seen is taken out of it, and every sign that looks like the beginning of
a tag is written as `&lt;`. In JSON such signs are escaped, which means the same there.
"""

from __future__ import annotations

import bisect
import re
import unicodedata

from fumehood.errors import WorkFailedError

LONGEST: dict[str, int] = {
    "abstract": 8_000,
    "archive": 120_000,
    "catalogue": 20_000,
    "cited": 20_000,
    "code": 80_000,
    "diff": 60_000,
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
    "plan": 1_000,
    "problems": 12_000,
    "registered": 6_000,
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
_OPENS = (
    "<\u00ab\u02c2\u02f1\u1438\u16b2\u2039\u226a\u227a\u22d6\u22d8\u2329\u276c\u276e\u2770\u27e8\u27ea\u2989\u2991\u2993"
    "\u29c0\u29fc\u2a79\u2aa1\u2aa6\u2abb\u2af7\u3008\u300a\ufe3d\ufe3f\ufe64\uff1c\U0001d236"
)
"""What may pass for the sign at which a tag begins."""
_AT_TAG = re.compile(f"[{_OPENS}]")
_LETTER = re.compile(r"[^\W\d_]")
_LOOKS = 48
"""Characters of the name that are looked at."""
_NUMBER = 8
"""Characters in which a number begins that something is compared with."""
_ANY = "?"
"""A letter that is none of ours, and so may pass for any."""
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
    if not _AT_TAG.search(text):
        return text
    # Looked at once each, however many brackets stand before it.
    letters = [match.start() for match in _LETTER.finditer(text)]
    told: dict[int, bool] = {}

    def written(match: re.Match[str]) -> str:
        if text.startswith("=", match.end()):
            return match[0]  # a comparison
        at = bisect.bisect_left(letters, match.end())
        if at == len(letters) and any(map(str.isdigit, text[match.end() : match.end() + _NUMBER])):
            return match[0]  # another, at the text's end
        start = letters[at] if at < len(letters) else len(text)
        if start not in told:
            told[start] = _is_tag(text, start)
        return "&lt;" if told[start] else match[0]

    return _AT_TAG.sub(written, text)


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


def _is_tag(text: str, start: int) -> bool:
    """Whether the letters from a place on read like the name of a tag, whatever script they are of.

    Where the text ends before that can be told, they do: what comes after it in a prompt may complete the name.
    """
    word, is_cut = _ours(text[start : start + _LOOKS]), start + _LOOKS >= len(text)
    return any(_reads(word, tag, is_cut=is_cut) for tag in _TAGS)


def _ours(text: str) -> str:
    """Return a text's letters as ours."""
    letters = (char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    folded = "".join(letters).casefold().translate(_LIKE)
    return "".join(char if "a" <= char <= "z" else _ANY for char in folded if char.isalpha())


def _reads(word: str, tag: str, *, is_cut: bool) -> bool:
    is_long = len(word) >= len(tag) or is_cut
    return is_long and all(char in (of_tag, _ANY) for char, of_tag in zip(word, tag, strict=False))


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
