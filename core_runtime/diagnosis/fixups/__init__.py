"""One fixup a file; its name is what suggestions call it. See ``diagnosis.parts`` for what a file holds."""
