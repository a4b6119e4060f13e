"""The gate: what two evaluations of the same items show. Pure: it knows no tool, and no stage of the pipeline."""
