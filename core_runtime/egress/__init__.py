"""The ways out of a sandbox: connections and requests that the host makes for Packs."""
