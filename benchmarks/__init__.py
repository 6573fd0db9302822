"""Measurements of speed, memory and quality; README.md in this folder has the commands and their results."""
