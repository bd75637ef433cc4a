"""Libraries that build encoders: one file and one row of the table each."""
