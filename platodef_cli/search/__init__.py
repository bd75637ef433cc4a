"""The search for an unknown trigger: one file per kind of search, one row per kind in the table."""
