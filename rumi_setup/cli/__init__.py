"""The operator's command: nouns and verbs over the management API, by way of its Unix socket.

It never imports the host: what it knows of it are routes, the envelope and the folder of the socket.
"""
