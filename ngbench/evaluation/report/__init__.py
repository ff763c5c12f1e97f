"""A page about runs: takes their folders and audits, gives one HTML file with tables and pictures.

Knows how results look to a reader; does not know methods. Every number follows from the runs' saved predictions.
"""

from ngbench.evaluation.report.page import rendered_page, write_report

__all__ = ["rendered_page", "write_report"]
