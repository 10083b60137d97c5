"""One check a file; the file's name is the code of what it finds. See ``diagnosis.parts`` for what a file holds."""
