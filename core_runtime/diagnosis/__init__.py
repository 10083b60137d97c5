"""The host's doctor: what may be wrong with an installation, looked for; and what mends it, performed on request."""
