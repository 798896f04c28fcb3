"""A cache that lives beside a running model: it grows token by token, attends under a rule, and counts what it reads."""
