"""Recommendations from an export, without torch where the query tower has no layers."""
