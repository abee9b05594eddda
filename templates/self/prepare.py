"""Labelled pairs of research plans of one arm, written from a secret key: those to learn from, and those held out.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train
    python prepare.py --arm=screen --part=inputs --key=key --seeds=1,2,3 --out_dir=inputs
    python prepare.py --arm=screen --part=answers --key=key --seeds=1,2,3 --out_dir=held_out

Small machine: add `--pairs=120`; to read the plans in English: `--words=plain`.
A plan says what is changed (a deed and its target), in which model, on which data, by which measure, why, with which
control and settings, and has sentences that any plan could have. Of a pair that is one idea, both plans are written
from the same things; of a hard pair of two ideas, the deed, its target or both are others and the rest is the same; of
an easy one all are drawn anew. Both plans of a pair are always written in the same way, so that no habit of writing
tells its sort. The key splits the banks of phrases between the arms, and puts for each data set another made-up word in
the place of each word of meaning, so that no list of synonyms that was made elsewhere helps. A made-up word is as long
as the word it stands for, two of them begin alike as far as their words do, and words without meaning stay, so that the
project's rule finds what it would find in the English plans. The same key and seeds give the same bytes; a seed's pairs
do not depend on the other seeds, and what is changed in a held-out plan is changed in no plan of the seed's training
pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import itertools
import re
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

PHRASES = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))
"""What plans are written from; no experiment sees it, as it is no program."""
BANKS: dict[str, str] = PHRASES["banks"]
FRAMES: dict[str, list[str]] = PHRASES["frames"]
STRENGTHS: list[str] = PHRASES["strengths"]
PLAIN_WORDS = frozenset(PHRASES["plain_words"].split())
KEY_BYTES = 32
STEM = 6
"""Letters of a word that are replaced; those after them stay."""


@dataclass(frozen=True)
class Style:
    """How a data set's plans are written."""

    switch: float
    """How often a phrase is another one than the idea's usual."""
    hard: float
    """Share of the pairs of two ideas that differ in what is changed only."""
    kept: float
    """How often a detail or an idea's usual common sentence is there."""
    common: int
    """Common sentences that an idea usually has."""
    added: int
    """Most common sentences that a plan has besides."""


STYLES = {
    "reworded": Style(switch=0.45, hard=0.5, kept=0.6, common=2, added=1),
    "same_subject": Style(switch=0.2, hard=1.0, kept=0.8, common=2, added=1),
    "long_boilerplate": Style(switch=0.25, hard=0.6, kept=0.7, common=6, added=3),
}
DATASETS = tuple(STYLES)

SHARED = ("subject", "data", "measure", "reason", "control")


def generator(key: bytes, *labels: object) -> Random:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return Random(int.from_bytes(digest, "big"))


def mixed(values: Sequence, rng: Random) -> list:
    """The values in another order."""
    return rng.sample(values, len(values))


def lines(bank: str) -> list[list[str]]:
    """A bank's things, each with its phrases."""
    return [[phrase.strip() for phrase in line.split("|")] for line in BANKS[bank].strip().splitlines()]


def banks_of(key: bytes, arm: str) -> dict[str, list[list[str]]]:
    """An arm's half of each bank."""
    found = {}
    for bank in BANKS:
        things = lines(bank)
        order = mixed(things, generator(key, "banks", bank))
        found[bank] = order[: len(things) // 2] if arm == "screen" else order[len(things) // 2 :]
    return found


class Cipher:
    """Made-up words in the place of words of meaning, as a data set of an arm has them."""

    def __init__(self, key: bytes, arm: str, dataset: str) -> None:
        self.labels = (key, arm, dataset, "words")
        frames = (*itertools.chain(*FRAMES.values()), *BANKS.values())
        vocabulary = {word for text in frames for word in re.findall("[a-z]+", re.sub("{.*?}", "", text).lower())}
        meant = [word for word in vocabulary if self.is_replaced(word)]
        for self.salt in itertools.count():
            self.letters: dict[str, dict[str, str]] = {}
            self.known = {word: self.made_up(word) for word in sorted(meant)}
            if not PLAIN_WORDS & set(self.known.values()):
                break

    @staticmethod
    def is_replaced(word: str) -> bool:
        return len(word) > 3 and word not in PLAIN_WORDS

    def made_up(self, word: str) -> str:
        """Letter by letter, each by an alphabet that depends on the letters before it."""
        found = []
        for place, letter in enumerate(word[:STEM]):
            before = word[:place]
            if before not in self.letters:
                rng = generator(*self.labels, self.salt, before)
                alphabet = [*mixed("aeiou", rng), *mixed("bcdfghjklmnpqrstvwxyz", rng)]
                self.letters[before] = dict(zip("aeioubcdfghjklmnpqrstvwxyz", alphabet, strict=True))
            found.append(self.letters[before][letter])
        return "".join(found) + word[STEM:]

    def __call__(self, text: str) -> str:
        return re.sub("[a-z]+", lambda match: self.known.get(match[0], match[0]), text.lower())


@dataclass(frozen=True)
class Idea:
    """What a plan says: places in the arm's banks, with the phrase that is usual for each."""

    things: dict[str, int]
    usual: dict[str, int]
    common: tuple[int, ...]


def draw_idea(banks: dict, style: Style, change: tuple[int, int], rng: Random) -> Idea:
    """Draw all that an idea is besides the change, which is given."""
    things = {"deed": change[0], "target": change[1]} | {slot: rng.randrange(len(banks[slot])) for slot in SHARED}
    usual = {slot: rng.randrange(3) for slot in things}
    return Idea(things, usual, tuple(rng.sample(range(len(banks["common"])), style.common)))


def write(idea: Idea, banks: dict, style: Style, rng: Random) -> str:
    """Write one plan of an idea."""

    def phrase(slot: str) -> str:
        phrases = banks[slot][idea.things[slot]]
        return rng.choice(phrases) if rng.random() < style.switch else phrases[idea.usual[slot]]

    def sentence(kind: str) -> str:
        frame = rng.choice(FRAMES[kind])
        words = {slot: phrase(slot) for slot in SHARED if f"{{{slot}}}" in frame}
        if "{i}" in frame:
            words["i"] = phrase("deed").replace("{t}", phrase("target"))
        elif "{a}" in frame:
            words["a"], words["b"] = rng.sample(STRENGTHS, 2)
        return frame.format(**words)

    said = [sentence("change"), sentence("measure"), sentence("reason")]
    said += [sentence(kind) for kind in ("control", "setting") if rng.random() < style.kept]
    own = [place for place in idea.common if rng.random() < style.kept]
    others = [place for place in range(len(banks["common"])) if place not in idea.common]
    own += rng.sample(others, rng.randint(0, style.added))
    said += [banks["common"][place][0] for place in own]
    return " ".join([sentence("title").rstrip(".?") + ".", *mixed(said, rng)])


def draw_pair(banks: dict, style: Style, changes: list[tuple[int, int]], same: bool, rng: Random) -> tuple[str, str]:
    """Write two plans: of one idea, or of two."""
    change = rng.choice(changes)
    first = second = draw_idea(banks, style, change, rng)
    if not same:
        others = [one for one in changes if one != change]
        if rng.random() < style.hard:
            near = [one for one in others if one[0] == change[0] or one[1] == change[1]]
            deed, target = rng.choice(near if near and rng.random() < 0.6 else others)
            usual = first.usual | {slot: rng.randrange(3) for slot in ("deed", "target")}
            second = Idea(first.things | {"deed": deed, "target": target}, usual, first.common)
        else:
            second = draw_idea(banks, style, rng.choice(others), rng)
    pair = write(first, banks, style, rng), write(second, banks, style, rng)
    return pair if rng.random() < 0.5 else pair[::-1]


def draw(
    key: bytes, arm: str, dataset: str, seed: int, part: str, n: int, words: str = "made-up"
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return n pairs of plans of a seed's part, `train` or `held_out`, and whether each is one idea (n,)."""
    banks, style = banks_of(key, arm), STYLES[dataset]
    every = [(deed, target) for deed in range(len(banks["deed"])) for target in range(len(banks["target"]))]
    order = mixed(every, generator(key, arm, dataset, "changes", seed))
    changes = order[: len(order) // 2] if part == "train" else order[len(order) // 2 :]
    rng = generator(key, arm, dataset, part, seed)
    same = mixed([place % 2 for place in range(n)], rng)
    pairs = [draw_pair(banks, style, changes, bool(one), rng) for one in same]
    if words == "made-up":
        cipher = Cipher(key, arm, dataset)
        pairs = [(cipher(a), cipher(b)) for a, b in pairs]
    return pairs, np.array(same, dtype=np.int64)


def encode(pairs: list[tuple[str, str]]) -> np.ndarray:
    """Return pairs of texts as their bytes, (n, 2, longest), with zeros behind them."""
    longest = max(len(text) for pair in pairs for text in pair)
    padded = "".join(text.ljust(longest, "\0") for pair in pairs for text in pair)
    return np.frombuffer(padded.encode("ascii"), np.uint8).reshape(len(pairs), 2, longest)


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write an archive whose bytes depend on the arrays only."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


def seed_list(text: str) -> list[int]:
    """Parse `1,2,3`."""
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed occurs twice")
    return seeds


def positive(text: str) -> int:
    """Parse a whole number above one."""
    if int(text) < 2:
        raise ValueError("below two")
    return int(text)


def main() -> None:
    """Write the asked part of an arm's pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=seed_list, required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=positive, default=120, help="to learn from, and as many held out")
    parser.add_argument("--words", choices=("made-up", "plain"), default="made-up")
    args = parser.parse_args()
    try:
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"the key cannot be read: {error}")
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")

    args.out_dir.mkdir(parents=True, exist_ok=True)
    for dataset in DATASETS:
        arrays = {}
        for seed in args.seeds:
            part = "train" if args.part == "train" else "held_out"
            pairs, same = draw(key, args.arm, dataset, seed, part, args.pairs, args.words)
            if args.part == "inputs":
                np.save(args.out_dir / f"{dataset}_{seed}.npy", encode(pairs))
            elif args.part == "train":
                arrays |= {f"pairs_{seed}": encode(pairs), f"same_{seed}": same}
            else:
                arrays[f"same_{seed}"] = same
        if arrays:
            write_npz(args.out_dir / f"{dataset}.npz", **arrays)
        print(f"{args.arm} {args.part}: {dataset}")


if __name__ == "__main__":
    main()
