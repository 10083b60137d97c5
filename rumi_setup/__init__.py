"""Setup and the operator's tools.

`core` runs on the bare standard library from Python 3.9 on and makes the environment that everything else needs.
`cli`, `web` and `guide` are faces over it. This package never imports the host and the host never imports it: they
meet over HTTP and on disk.
"""
