"""The text of one arm, written in a language that is drawn from a secret key.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2 --out_dir=train

Words, their frequencies and which word follows which are drawn anew for each arm, so that no text of this language can
be known beforehand. The same key and seeds give the same bytes; a seed's text does not depend on the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
from pathlib import Path

import numpy as np

KEY_BYTES = 32
DATASET = "tales"
ALPHABET = "abcdefghijklmnopqrstuvwxyz ."
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"
WORDS = 60
FOLLOWERS = 6
"""How many words may follow a word, one of them most of the time."""
SENTENCE = 7
"""Words of a sentence."""


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


class Language:
    """Words, and which of them follow which."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.words = [self._word(rng) for _ in range(WORDS)]
        self.followers = rng.integers(WORDS, size=(WORDS, FOLLOWERS))
        self.chances = rng.dirichlet(np.full(FOLLOWERS, 0.5), size=WORDS)  # (words, followers)

    @staticmethod
    def _word(rng: np.random.Generator) -> str:
        syllables = range(rng.integers(1, 4))
        return "".join(CONSONANTS[rng.integers(len(CONSONANTS))] + VOWELS[rng.integers(5)] for _ in syllables)

    def write(self, characters: int, rng: np.random.Generator) -> str:
        """Return so many characters of sentences."""
        text, word, count = "", int(rng.integers(WORDS)), 0
        while len(text) < characters:
            count += 1
            text += self.words[word] + (". " if count % SENTENCE == 0 else " ")
            word = int(self.followers[word, rng.choice(FOLLOWERS, p=self.chances[word])])
        return text[:characters]


def main() -> None:
    """Write the asked part of an arm's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--train_characters", type=int, default=30_000)
    parser.add_argument("--held_out_characters", type=int, default=1_536)
    args = parser.parse_args()
    key = args.key.read_bytes()
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")
    language = Language(generator(key, args.arm, "language"))
    told: dict[str, object] = {"alphabet": ALPHABET}
    if args.part == "train":
        told["text"] = language.write(args.train_characters, generator(key, args.arm, "train"))
    else:
        rngs = {seed: generator(key, args.arm, "answers", seed) for seed in args.seeds}
        told["text"] = {str(seed): language.write(args.held_out_characters, rng) for seed, rng in rngs.items()}
        told["draw"] = {str(seed): int(rng.integers(2**31)) for seed, rng in rngs.items()}
    args.out_dir.mkdir(parents=True, exist_ok=True)
    (args.out_dir / f"{DATASET}.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    print(f"{args.arm} {args.part}: {DATASET}.json")


if __name__ == "__main__":
    main()
