"""Coverage-guided fuzzing of what reads the bus: the host's parser and sessions, and the agent's own copy. No test itself."""
