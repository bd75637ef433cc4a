"""Triggers and planted attacks."""
