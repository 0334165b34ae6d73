"""Deliberate mistakes, in Python and on the command line, and whether each is answered by an error that helps."""
