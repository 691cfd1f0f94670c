"""Recommendations from an export, with numpy, pandas and pyarrow alone where the query tower has no layers."""
