"""SQL over result directories: views, a database that can reach nothing else, and what its answers are written to."""
