"""The machine and the servers it talks to: workspace, processes, locks, MLflow, addresses, secrets."""
