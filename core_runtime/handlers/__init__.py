"""Kernel handlers that the startup flow may name, one module per group."""
