"""Peer prediction servers, each written as in its own tutorial."""
