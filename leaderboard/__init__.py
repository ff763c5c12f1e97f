"""The leaderboard: takes submitted predictions, scores them again, gives records, and from these tables and pages.

Knows no baseline: to the leaderboard a method is its name and its predictions. It runs no code of a submission, and believes none
of its numbers.
"""
