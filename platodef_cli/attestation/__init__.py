"""Signed statements about reports: in-toto statements in DSSE envelopes."""
