"""The only way out of a sandbox: named capabilities over a unix socket, and dialogues between two executions."""
