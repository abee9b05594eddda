"""The drivers that give an execution its workspace, and the choice among them by a probe that really overfills."""
