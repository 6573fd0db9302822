"""The machine: files written whole, processes, memory, reading ahead."""
