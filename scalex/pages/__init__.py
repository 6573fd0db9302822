"""Pages in one file that open without a network: reports of runs, and of sweeps."""
