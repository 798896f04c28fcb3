"""Random small PTX programs, run on both engines and compared: every value, every count."""
