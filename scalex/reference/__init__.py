"""A finished run, and what its cells say of others."""
