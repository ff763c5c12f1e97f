"""The place of the leaderboard, which does not exist yet: submitted predictions, scored again, with their table and page.

It will import ngbench and know no baseline: to the leaderboard, a method is its name and its predictions.
"""
