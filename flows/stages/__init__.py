"""How one stage is read, checked and run: dvc.yaml and params.yaml, the runner, what a killed run leaves."""
