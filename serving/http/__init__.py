"""HTTP for every route: API keys, trusted hosts, request bodies, limits and error responses.

Routes live in `serving/api`; parsing images from a body lives in `serving/inputs`.
"""
