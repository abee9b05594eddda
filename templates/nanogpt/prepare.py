"""The texts of one arm, split by a secret key: what a run trains on, and what its model is asked about.

    head -c 32 /dev/urandom > key
    python prepare.py --arm=screen --part=train --key=key --seeds=1,2,3 --out_dir=train
    python prepare.py --arm=screen --part=answers --key=key --seeds=1,2,3 --out_dir=held_out

A text is public, so what is secret is which of its passages are held out: the key cuts the text into passages from a
secret offset on, and takes some of them for each arm out of what is trained on. A seed is asked about streams of its
own that are drawn from the held-out passages. `--split=published` holds the end of the text out, as the original does.

Texts lie in `data/<dataset>`, where the platform puts what `fumehood template fetch` got, and are checked against the
SHA-256 in `template.toml`. Where there is none, `stand_in/<dataset>.txt` stands in, and `sources.json` says so. What an
idea asked for of the catalogue lies in `data/catalogue/<name>.txt`; `catalogue.json` says its SHA-256 and how much of
it is held out. The same key and the same seeds give the same bytes; a seed's streams do not depend on the other seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import json
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
KEY_BYTES = 32
STREAM = 256
"""Characters of a stream: `block` in `template.toml`."""
PASSAGE = 8 * STREAM
SHARES = {"shakespeare_char": (0.10, 0.05), "enwik8": (0.05, 0.05), "text8": (0.05, 0.05)}
"""Of each text, the shares that are held out and that a run may validate on; the rest is trained on."""
PUBLISHED = {"shakespeare_char": (0.90, 1.0), "enwik8": (0.90, 0.95), "text8": (0.90, 0.95)}
"""Where the original's held-out part begins and ends; its training text is what comes before."""
MEMBERS = {"enwik8": "enwik8", "text8": "text8"}
"""What is taken out of the archives that two of the texts come in."""


class DataError(Exception):
    """The texts cannot be had; the message says why."""


class Source(NamedTuple):
    """A text, and where it comes from."""

    text: np.ndarray  # (N,) uint8, in Latin-1
    origin: str  # fetched, stand-in or catalogue
    sha256: str


class Split(NamedTuple):
    """The three parts of a text as codes, and the alphabet that they are codes of."""

    train: np.ndarray  # (N,) uint8
    validation: np.ndarray  # (N,) uint8
    held_out: np.ndarray  # (streams, STREAM) uint8
    alphabet: np.ndarray  # (symbols,) uint8, in Latin-1


def settings() -> dict:
    """The template's own words."""
    return tomllib.loads((HERE / "template.toml").read_text(encoding="utf-8"))


def asked() -> dict[str, dict]:
    """What an idea asked for, and the platform laid down: name to what the catalogue says of it."""
    path = HERE / "catalogue.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: entry for name, entry in told.items() if entry["kind"] == "data"}


def datasets() -> tuple[str, ...]:
    """The names of the template's data sets, and of what an idea asked for."""
    return (*settings()["datasets"], *asked())


def read_asked(dataset: str, entry: dict) -> Source:
    """Read a text of the catalogue."""
    path = HERE / "data" / "catalogue" / f"{dataset}.txt"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no data/catalogue/{path.name}.") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != entry["sha256"]:
        raise DataError(f"data/catalogue/{path.name} has the SHA-256 {sha256}, and {entry['sha256']} is expected.")
    return Source(np.frombuffer(data, dtype=np.uint8), "catalogue", sha256)


def shares(dataset: str) -> tuple[float, float]:
    """The shares of a text that are held out and that a run may validate on."""
    entry = asked().get(dataset)
    return (entry["split"], entry["split"]) if entry else SHARES[dataset]


def read_source(dataset: str) -> Source:
    """Read a text of the catalogue, a fetched one, or the one that stands in for it."""
    if entry := asked().get(dataset):
        return read_asked(dataset, entry)
    fetched, stand_in = HERE / "data" / dataset, HERE / "stand_in" / f"{dataset}.txt"
    path = fetched if fetched.exists() else stand_in
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is neither data/{dataset} nor stand_in/{dataset}.txt.") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if path is stand_in:
        return Source(np.frombuffer(data, dtype=np.uint8), "stand-in", sha256)
    wanted = settings().get("data", {}).get(dataset, {}).get("sha256", "")
    if wanted and sha256 != wanted:
        raise DataError(f"data/{dataset} has the SHA-256 {sha256}, and {wanted} is expected.")
    if dataset in MEMBERS:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(MEMBERS[dataset])
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"data/{dataset} is no archive that holds {MEMBERS[dataset]} ({error}).") from None
    return Source(np.frombuffer(data, dtype=np.uint8), "fetched", sha256)


def generator(key: bytes, *labels: object) -> np.random.Generator:
    """The random numbers of one purpose: nobody without the key can draw them."""
    digest = hmac.new(key, "/".join(map(str, labels)).encode(), hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def split(source: Source, key: bytes, arm: str, dataset: str) -> Split:
    """Cut a text into passages from a secret offset on, and take some of them out of it."""
    rng = generator(key, arm, dataset, "split")
    offset = int(rng.integers(PASSAGE))
    edges = np.arange(offset, len(source.text) - PASSAGE + 1, PASSAGE)  # (passages,) where each begins
    held, validated = (max(1, round(share * len(edges))) for share in shares(dataset))
    if len(edges) <= held + validated:
        raise DataError(f"The text of {dataset} has {len(source.text)} characters, which are too few to split.")
    taken = rng.permutation(edges)
    held_out, validation = np.sort(taken[:held]), np.sort(taken[held : held + validated])
    is_left = np.ones(len(source.text), dtype=bool)
    for begin in (*held_out, *validation):
        is_left[begin : begin + PASSAGE] = False
    parts = (source.text[is_left], *(np.concatenate([source.text[b : b + PASSAGE] for b in begins])
             for begins in (validation, held_out)))  # fmt: skip
    return encoded(*parts)


def published_split(source: Source, dataset: str) -> Split:
    """Hold out what the original does; the last twentieth of what it trains on is validated on."""
    begin, end = (round(share * len(source.text)) for share in PUBLISHED.get(dataset, (0.9, 1.0)))
    last = round(0.95 * begin)
    held_out = source.text[begin : end - (end - begin) % STREAM]
    return encoded(source.text[:last], source.text[last:begin], held_out)


def encoded(train: np.ndarray, validation: np.ndarray, held_out: np.ndarray) -> Split:
    """Number the characters of the whole text, which the alphabet is taken from, as in the original."""
    parts = [part.tobytes() for part in (train, validation, held_out)]
    alphabet = bytes(code for code in range(256) if any(bytes([code]) in part for part in parts))
    table = bytes(max(0, alphabet.find(code)) for code in range(256))
    # An index into a table would take eight bytes for each character.
    codes = [np.frombuffer(part.translate(table), dtype=np.uint8) for part in parts]
    return Split(codes[0], codes[1], codes[2].reshape(-1, STREAM), np.frombuffer(alphabet, dtype=np.uint8))


def answers(parts: Split, key: bytes, arm: str, dataset: str, seeds: list[int], characters: int) -> dict[str, object]:
    """What each seed's model is asked about: streams drawn from the held-out ones, for each seed alone."""
    letters = [chr(code) for code in parts.alphabet]
    count = min(len(parts.held_out), max(1, characters // STREAM))
    told: dict[str, dict[str, object]] = {"text": {}, "draw": {}}
    for seed in seeds:
        rng = generator(key, arm, dataset, "answers", seed)
        streams = parts.held_out[rng.permutation(len(parts.held_out))[:count]]  # (count, STREAM)
        told["text"][str(seed)] = "".join(letters[code] for code in streams.ravel())
        told["draw"][str(seed)] = int(rng.integers(2**31))
    return {"alphabet": "".join(letters), **told}


def training_data(key: bytes, arm: str, dataset: str) -> dict[str, np.ndarray]:
    """What a run may see of a data set."""
    parts = split(read_source(dataset), key, arm, dataset)
    return {"train": parts.train, "validation": parts.validation, "alphabet": parts.alphabet}


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


def write(args: argparse.Namespace, key: bytes) -> None:
    """Write the asked part of each data set."""
    sources = {}
    for dataset in datasets():
        source = read_source(dataset)
        source = source._replace(text=source.text[: args.most_characters or None])
        sources[dataset] = {"from": source.origin, "sha256": source.sha256, "characters": len(source.text)}
        is_secret = args.split == "secret"
        parts = split(source, key, args.arm, dataset) if is_secret else published_split(source, dataset)
        if args.part == "train":
            shown = {"train": parts.train, "validation": parts.validation, "alphabet": parts.alphabet}
            write_npz(args.out_dir / f"{dataset}.npz", **shown)
        else:
            told = answers(parts, key, args.arm, dataset, args.seeds, args.held_out_characters)
            (args.out_dir / f"{dataset}.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
        print(f"{args.arm} {args.part}: {dataset}, {source.origin}, SHA-256 {source.sha256}")
    if args.part == "train":
        (args.out_dir / "sources.json").write_text(json.dumps(sources, indent=2) + "\n")


def main() -> int:
    """Write the asked part of an arm's texts, or say in one sentence why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("screen", "confirm"), required=True)
    parser.add_argument("--part", choices=("train", "inputs", "answers"), required=True)
    parser.add_argument("--key", type=Path, required=True, help=f"a file of {KEY_BYTES} secret bytes")
    parser.add_argument("--seeds", type=seed_list, required=True)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--held_out_characters", type=int, default=65_536, help="of each seed, where there are as many")
    parser.add_argument("--most_characters", type=int, default=0, help="of each text, from its beginning; 0 takes all")
    parser.add_argument("--split", choices=("secret", "published"), default="secret")
    args = parser.parse_args()
    try:
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"the key cannot be read: {error}")
    if len(key) != KEY_BYTES:
        parser.error(f"the key must hold {KEY_BYTES} bytes, not {len(key)}")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    if args.part == "inputs":  # a model is asked for the next character, and given no other inputs
        (args.out_dir / "inputs.json").write_text(json.dumps({"datasets": list(datasets()), "inputs": {}}) + "\n")
        return 0
    try:
        write(args, key)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
