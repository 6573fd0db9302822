"""The folder of a run: its log, its tables."""
