"""The operating system: atomic files, processes, memory, reading ahead."""
