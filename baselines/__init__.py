"""Baselines: methods that ngbench ships and measures, one readable page each, registered as entry points.

Each takes a ``Problem`` and datasets of neural graphs and gives predictions; it imports ngbench, never another baseline.
"""
