"""Pages as people see them, in Debian's headless Chromium, in front of the real processes."""
