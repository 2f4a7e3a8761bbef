"""One file a command: rows or problems in, rows or a checkpoint out. Imports are lazy, so that help is quick."""
