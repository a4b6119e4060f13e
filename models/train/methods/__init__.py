"""The algorithms that train a model, a file each."""
