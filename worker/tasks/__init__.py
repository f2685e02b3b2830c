"""Tasks, one file per subject."""
