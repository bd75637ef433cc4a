"""Purifiers: regenerate the clean source feature from the references."""
