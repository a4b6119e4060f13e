"""The flows that Prefect knows: retraining, approval by a person, and what `sluice run` shows around them."""
