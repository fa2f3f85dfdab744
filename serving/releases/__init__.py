"""Released versions: the ledger of decisions, the stored classifiers and golden requests.

Flows write here and the service reads. How a decision is reached is in `relearn.flows.promotion`.
"""
