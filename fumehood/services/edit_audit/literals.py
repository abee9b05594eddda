"""Data that is hidden in code: long texts, dense texts, many numbers.

The limits were set by what honest code has. In the shipped template no literal holds more than 6 numbers, all numbers
together have 286 digits, no text is longer than 991 characters or has more than 4.9 bits a character; an edit of its
playbook brings at most 11 numbers of 21 digits. Data or weights that are worth hiding need many times more.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from fumehood.domain.finding import Finding, FindingKind
from fumehood.services.edit_audit.source import Source, number_of, text_of

MOST_TEXT = 4_000
"""Characters of one text; a docstring of two pages."""
MOST_DENSE = 160
"""Characters of one text, or of one list of texts, that are no words."""
MOST_NUMBERS = 64
"""In one literal."""
MOST_DIGITS = 400
"""In the numbers of one literal."""
MOST_DIGITS_OF_ONE = 40
MOST_ITEMS = 256
"""Of any kind in one literal."""
MOST_BROUGHT_DIGITS = 2_000
"""In all numbers that all edits together bring."""
MOST_BROUGHT_DENSE = 800
LONG_WORD = 48
"""Characters without a space from which on a text is looked at as one code word."""
ORDERED_BITS = 3.0
"""Entropy of one character of a ruler such as `-----`, and more than it."""
PROSE_BITS = 5.2
"""Entropy of one character of prose or code, and more than it; base64 has 5.6 and more."""
_CONTAINERS = (ast.List, ast.Tuple, ast.Set, ast.Dict)
_UNPACKERS = frozenset(
    {
        *("base64", "binascii", "bytes.fromhex", "bytearray.fromhex", "zlib.decompress", "lzma.decompress"),
        *("bz2.decompress", "gzip.decompress", "codecs.decode", "int.from_bytes", "numpy.frombuffer", "struct.unpack"),
    }
)
LONGEST_PACKED = 32
"""Characters of a literal that may be unpacked; a short constant hides nothing."""
_ADVICE = "data has no place in code: compute it, or read it from FUMEHOOD_DATA"


def check(source: Source) -> Iterator[Finding]:
    """Yield every literal that is large or dense by itself."""
    inside: set[int] = set()
    for node in source.nodes:
        if isinstance(node, _CONTAINERS) and id(node) not in inside:
            leaves = list(ast.walk(node))
            inside.update(map(id, leaves))
            yield from _literal(source, node, [one for one in leaves if isinstance(one, ast.Constant)])
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield from _literal(source, node, [node])
    for call in source.nodes:
        if isinstance(call, ast.Call) and _unpacks(source, call):
            yield source.found(FindingKind.LITERAL, call, "unpacks a literal", _ADVICE)


def _unpacks(source: Source, call: ast.Call) -> bool:
    name = source.name_of(call.func)
    known = name in _UNPACKERS or name.partition(".")[0] in {"base64", "binascii"}
    return known and sum(len(text_of(one)) for one in call.args) > LONGEST_PACKED


def _literal(source: Source, node: ast.AST, leaves: Sequence[ast.Constant]) -> Iterator[Finding]:
    numbers = [digits(one) for one in leaves if _is_number(one)]
    texts = [_plain(one) for one in leaves if isinstance(one.value, str | bytes)]
    longest, dense = max(map(len, texts), default=0), sum(map(density, texts))
    said = [
        (len(numbers) > MOST_NUMBERS, f"holds {len(numbers)} numbers in one literal"),
        (sum(numbers) > MOST_DIGITS, f"holds {sum(numbers)} digits in one literal"),
        (max(numbers, default=0) > MOST_DIGITS_OF_ONE, f"holds a number of {max(numbers, default=0)} digits"),
        (len(leaves) > MOST_ITEMS, f"holds {len(leaves)} values in one literal"),
        (longest > MOST_TEXT, f"holds a text of {longest} characters"),
        (dense > MOST_DENSE, f"holds {dense} characters that are no words"),
    ]
    yield from (source.found(FindingKind.LITERAL, node, what, _ADVICE) for holds, what in said if holds)


def compare(before: Sequence[Source], after: Sequence[Source]) -> Iterator[Finding]:
    """Yield what many small literals bring together: data can be cut into pieces."""
    brought = _values(after)
    brought.subtract(_values(before))
    new = [(one, count) for one, count in brought.items() if count > 0]
    total = sum(size * count for (kind, _, size), count in new if kind == "number")
    dense = sum(size * count for (kind, _, size), count in new if kind == "text")
    if after and total > MOST_BROUGHT_DIGITS:
        what = "brings too many numbers in all"
        yield after[0].found(FindingKind.LITERAL, None, what, _ADVICE)
    if after and dense > MOST_BROUGHT_DENSE:
        what = "brings too much dense text in all"
        yield after[0].found(FindingKind.LITERAL, None, what, _ADVICE)


def _values(sources: Sequence[Source]) -> Counter[tuple[str, str, int]]:
    found: Counter[tuple[str, str, int]] = Counter()
    for node in (node for source in sources for node in source.nodes):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            found["text", _plain(node), density(_plain(node))] += 1
        elif isinstance(node, ast.Constant) and _is_number(node):
            value = node.value
            # Told apart by their bits: to write a huge number in decimals takes long, and Python refuses it.
            found["number", hex(value) if isinstance(value, int) else repr(value), digits(node)] += 1
    return found


def _plain(node: ast.Constant) -> str:
    return node.value.decode("latin-1") if isinstance(node.value, bytes) else str(node.value)


def _is_number(node: ast.Constant) -> bool:
    return number_of(node) is not None or isinstance(node.value, complex)


def digits(node: ast.Constant) -> int:
    """Return how many digits a number has."""
    if isinstance(node.value, int):
        return max(1, math.ceil(node.value.bit_length() * math.log10(2)))
    return sum(one.isdigit() for one in repr(node.value))


def density(text: str) -> int:
    """Return how many characters of a text are no words of prose or code."""
    solid = "".join(text.split())
    if len(solid) > MOST_DENSE and entropy(solid) > PROSE_BITS:
        return len(solid)
    return sum(len(word) for word in text.split() if _is_code_word(word))


def _is_code_word(word: str) -> bool:
    if len(word) >= LONG_WORD and entropy(word) > ORDERED_BITS:
        return True
    return len(word) > 2 and sum(one.isdigit() for one in word) * 2 >= len(word)


def entropy(text: str) -> float:
    """Return the bits of a character, by how often each occurs."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts) if text else 0.0
