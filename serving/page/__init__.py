"""The draw page: its HTML, CSS and JavaScript files and their HTTP headers.

It predicts through the public API like any other client.
"""
