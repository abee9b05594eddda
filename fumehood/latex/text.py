"""Plain text as LaTeX, and the characters beyond ASCII that models like to write."""

from __future__ import annotations

# ruff: noqa: RUF001 - characters that look like others are what this module is about
import re
import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
}
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", _GREEK_NAMES.split(), strict=True))
_MATHS = {
    "×": "times", "±": "pm", "∓": "mp", "≤": "leq", "≥": "geq", "≈": "approx", "≠": "neq", "→": "rightarrow",
    "←": "leftarrow", "↔": "leftrightarrow", "⇒": "Rightarrow", "∞": "infty", "∑": "sum", "∏": "prod", "∫": "int",
    "∂": "partial", "∇": "nabla", "√": "surd", "∈": "in", "∉": "notin", "⊂": "subset", "∪": "cup", "∩": "cap",
    "·": "cdot", "∘": "circ", "∥": "parallel", "∼": "sim", "∝": "propto", "∀": "forall", "∃": "exists",
    "…": "ldots", "⟨": "langle", "⟩": "rangle", "ℓ": "ell", "′": "prime",
}  # fmt: skip
_TEXT = {
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "−": r"\ensuremath{-}", "\u00a0": "~",
    "\u202f": r"\,", "\u2009": r"\,", "•": r"\textbullet{}", "°": r"\ensuremath{^\circ}", "€": "EUR", "™": "",
    "©": "(c)", "®": "", "\u200b": "", "\ufeff": "", "²": r"\ensuremath{^2}", "³": r"\ensuremath{^3}",
    "½": r"\ensuremath{\frac12}", "‐": "-", "‑": "-",
}  # fmt: skip
_COMMANDS = _TEXT | {char: rf"\ensuremath{{\{name}}}" for char, name in {**_GREEK, **_MATHS}.items()}
_LATIN = re.compile(r"[\u00c0-\u00ff\u0100-\u017f]")


def ascii_only(source: str) -> str:
    """Return LaTeX without characters that the default fonts lack; accented Latin letters stay."""
    return "".join(char if char in "\n\t" or " " <= char <= "~" else _char(char) for char in source)


def escape(text: str) -> str:
    """Return plain text as LaTeX that prints it."""
    escaped = "".join(_SPECIAL.get(char, char) for char in text)
    return ascii_only(re.sub(r'"([^"]*)"', r"``\1''", escaped))


def unescaped(latex: str) -> str:
    """Return a title's LaTeX as text for the PDF's metadata."""
    text = re.sub(r"\\ensuremath|\\[a-zA-Z]+\s*|[{}$^\\]", "", latex.replace("~", " "))
    return re.sub(r"\s+", " ", text).strip()


def _char(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    if _LATIN.match(char):
        return char
    decomposed = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return "".join(_SPECIAL.get(one, one) for one in decomposed if " " <= one <= "~")
