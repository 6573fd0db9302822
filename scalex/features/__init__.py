"""Names of features: matched, joined, and why they do not fit."""
