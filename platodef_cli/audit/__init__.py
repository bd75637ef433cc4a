"""The audit: from an encoder, references and clean images to a report. It never prints."""
