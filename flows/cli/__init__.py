"""The command line: one module per verb or group of verbs, declared in `app`.

A verb reads flags, calls one function of another package and prints the result. The work itself is done in
those packages.
"""
