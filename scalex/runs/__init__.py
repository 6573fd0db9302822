"""Run folders, their logs and their tables."""
