"""Downloads from a model hub: one commit, hashed, bounded."""
