"""The fumehood command."""
