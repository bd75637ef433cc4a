"""Encoder backends: resolving, checking and running vision encoders, trusted or not."""
