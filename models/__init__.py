"""Everything that needs no orchestrator: data, worlds, training, scoring, the sandbox."""
