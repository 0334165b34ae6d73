"""What a model does and what it costs: observation, operation counts, energy conventions."""
