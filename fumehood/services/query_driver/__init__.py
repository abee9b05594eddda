"""The frozen programs that ask an experiment's model, inside a `query` execution."""

from pathlib import Path

_HERE = Path(__file__).parent
DRIVER = _HERE / "driver.py"
CHARACTERS = tuple(_HERE / name for name in ("characters.py", "answerer.py", "confinement.py"))
"""What asks a language model, the first of them being the program."""
