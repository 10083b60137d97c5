"""The web console: server-rendered pages over the host's own views."""
