"""The stages, a module each, and the gate. The listing is the pipeline."""
