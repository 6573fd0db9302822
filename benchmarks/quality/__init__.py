"""Quality of the integration of cells, compared with other methods."""
