"""The server: a fake engine for what a real one does rarely, and the embedded model for what it answers."""
