"""The steps of an audit, in order: scoring, battery, search, measure, encoder level, pictures."""
