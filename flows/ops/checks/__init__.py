"""The checks of `relearn doctor`: each takes the home and yields one or more results, and changes nothing.

Their order and their time limit are in `ops/doctor.py`.
"""
