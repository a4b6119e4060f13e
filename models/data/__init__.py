"""Records and texts: kinds, importing, cleaning, redaction, duplicates, decontamination, expectations."""
