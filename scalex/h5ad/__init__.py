"""AnnData on disk, read and written in pieces."""
