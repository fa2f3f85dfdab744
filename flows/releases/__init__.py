"""Release state: reference set, decisions, alias synchronization and rollback.

The ledger and the release store themselves are in `relearn.serving.releases`.
"""
