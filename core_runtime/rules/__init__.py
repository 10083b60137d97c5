"""Why: pure decisions. Values in, values out; no clock, files, sockets, threads or logging."""
