"""Suites, and models asked their questions: prompts, packing, answers, evidence."""
