"""How well cells are integrated, beside other methods."""
