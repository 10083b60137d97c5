"""Where Packs meet: connections, calls, streams and references between strangers. `hub` is the way in."""
