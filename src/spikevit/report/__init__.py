"""What a run looks like: in the terminal and as a picture."""
