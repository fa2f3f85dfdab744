"""Scripts around the project: its demo, its pictures, and what happens when its parts die."""
