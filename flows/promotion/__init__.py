"""Promotion: reference set, scores, gate, gate report and smoke test of a candidate.

The flow that calls them is `relearn.flows.release`; statistics are in `relearn.model.evaluation`.
"""
