"""Versions and what was decided about them: the registry, its record, the gate's doors, lineage and verification."""
