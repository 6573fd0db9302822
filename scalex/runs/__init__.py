"""The folder of a run, its log and its tables."""
