"""Audits methods: takes a method and zoos, acts on trained networks with their symmetry group, gives an `Audit` of measurements.

Knows what methods claim; does not know how well they do at a task, or how an audit is shown.
"""

from ngbench.evaluation.audit.measure import audit_method, auditable, default_zoos
from ngbench.evaluation.audit.record import Audit, MethodAudit, Plan
from ngbench.evaluation.audit.table import markdown_table

__all__ = ["Audit", "MethodAudit", "Plan", "audit_method", "auditable", "default_zoos", "markdown_table"]
