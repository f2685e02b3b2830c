"""The pages, one file per section."""
