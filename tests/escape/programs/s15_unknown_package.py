# /// escape
# promise = "S15"
# trick = "It imports a package that its image does not have"
# control = { local = ["packages of the image"], docker = ["packages of the image"] }
# ///
import importlib

from inside import attempt

for name in ("unfamiliar", "transformers_unreleased", "wandb_private"):
    attempt(name, lambda name=name: importlib.import_module(name))
