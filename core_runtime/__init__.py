"""The kernel: mechanisms only. What the host does, never what it is for."""
