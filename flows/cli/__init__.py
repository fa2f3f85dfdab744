"""The command line: one module per command or group of commands, declared in `app`.

A command reads flags, calls one function of another package and prints the result. The work itself is done in
those packages.
"""
