"""LaTeX skeleton, checks and figures."""
