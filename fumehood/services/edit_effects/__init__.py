"""What an edit has no effect with: code that nothing reaches, results of another run, idle parameters."""

from fumehood.services.edit_effects.results import Measured, compared, is_same_output, untrained
from fumehood.services.edit_effects.unreached import unreached

__all__ = ["Measured", "compared", "is_same_output", "unreached", "untrained"]
