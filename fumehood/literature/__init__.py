"""Works that exist, and how to find and cite them."""
