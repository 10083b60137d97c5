"""What each file of the ecosystem must contain: frozen types, JSON Schemas (2020-12) and the validator over both."""
