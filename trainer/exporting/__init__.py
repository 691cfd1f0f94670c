"""A run as files that others use, each checked against the exact ranking."""
