"""Fits `model.py` to the rows of each seed, and keeps the models.

    python experiment.py --out_dir=run_0

Reads the folder FUMEHOOD_DATA and the seeds FUMEHOOD_SEEDS. `model.fit(x, y, seed)` is given features (n, d) and
targets (n,), and returns anything that can be pickled; the pickle is read again by serve.py, in a sandbox of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import time
from pathlib import Path

import model
import numpy


def main() -> None:
    """Fit every data set and seed, unless a finished run lies in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", type=Path, default=Path("run_0"))
    out_dir = parser.parse_args().out_dir
    if (out_dir / "final_info.json").exists():
        print(f"{out_dir} is finished")
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in os.environ["FUMEHOOD_SEEDS"].split(",")]  # noqa: TID251 - a template's only settings
    info = {}
    for path in sorted(Path(os.environ["FUMEHOOD_DATA"]).glob("*.npz")):  # noqa: TID251
        seconds = []
        with numpy.load(path, allow_pickle=False) as archive:
            for seed in seeds:
                random.seed(seed)
                numpy.random.seed(seed)
                started = time.perf_counter()
                fitted = model.fit(archive[f"x_{seed}"], archive[f"y_{seed}"], seed)
                seconds.append(time.perf_counter() - started)
                (out_dir / f"model_{path.stem}_{seed}.pkl").write_bytes(pickle.dumps(fitted))
                print(f"{path.stem} seed {seed}: fitted in {seconds[-1]:.2f} s", flush=True)
        mean = sum(seconds) / len(seconds)
        info[path.stem] = {
            "means": {"fit_time": mean},
            "stderrs": {},
            "final_info_dict": {"fit_time": seconds},
        }
    unfinished = out_dir / "final_info.json.part"
    unfinished.write_text(json.dumps(info, indent=2) + "\n")
    unfinished.replace(out_dir / "final_info.json")


if __name__ == "__main__":
    main()
