"""The API's routes, their responses and their OpenAPI document.

Parsing images lives in `serving/inputs`; authentication and limits live in `serving/http`.
"""
