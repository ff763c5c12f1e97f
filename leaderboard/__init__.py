"""The leaderboard: takes submitted predictions, checks and scores them again, and gives the table and its page.

It imports ngbench and knows no baseline: to the leaderboard, a method is its name and its predictions.
"""
