"""AnnData in files, read and written in blocks of rows."""
