"""The namespace of three packages: `model` learns, `serving` answers requests, `flows` orchestrates both."""
