"""Analysis of recent predictions: the window report, its texts and metrics, and retraining triggers.

The flow that runs it is `flows/monitor.py`; the drift test itself lives in `model/drift`.
"""
