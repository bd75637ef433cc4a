"""Static checks of a model's files; nothing is loaded."""
