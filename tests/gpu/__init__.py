"""What only a GPU can show: that trainings, scoring and generation do on it what they do on a CPU, and how fast. `python -m tests.gpu`."""
