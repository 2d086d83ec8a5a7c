"""Comparisons of recipes over seeds: which arms, how each cell runs, and what may be concluded. No torch at import."""
