"""Foundations shared by every room of the host: errors, canonical JSON, confined files, the ecosystem's formats."""
