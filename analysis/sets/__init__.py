"""Analyses of many dumps: what is in a set, how it is divided, computed anywhere, and put together the same way every time."""
