"""Terminal output: console, tables, images, the next commands.

The commands themselves are in `cli`.
"""
