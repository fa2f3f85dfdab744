"""Servers that ours is measured beside, each as its own introduction writes it."""
