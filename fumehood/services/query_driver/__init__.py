"""The frozen programs that ask an experiment's model, or have it trained, inside executions."""

from pathlib import Path

_HERE = Path(__file__).parent
DRIVER = _HERE / "driver.py"
COUNTING = _HERE / "counting.py"
"""What the driver counts a model's size by; it lies beside it."""
CHARACTERS = tuple(_HERE / name for name in ("characters.py", "answerer.py", "confinement.py", "counting.py"))
"""What asks a language model, the first of them being the program."""
RESUME = tuple(_HERE / name for name in ("resume.py", "counted.py", "confinement.py"))
"""What has stretches of a run's training done once more, the first of them being the program."""
COMPARE = _HERE / "compare.py"
"""What says whether these, and the checkpoints, answer as the run wrote it down."""
TOGETHER = _HERE / "together.py"
"""What runs an edited experiment, and sees whether its seeds are independent."""
