"""Machine learning: data, networks, training, evaluation and inference. Imports no other layer."""
