"""Codecs and rules on one scale: what is stored, what is moved, what attention loses."""
