"""Data as people have it, brought into data/raw as records: a file, a folder, a bucket or a data set of the hub.

module         what it has
bringing       the import: read, recognise, write beside, rename; what is quarantined and what an import may change
sources        which files a source has, and in which form each of them is
owners         what an import is called, and the places that are its own
forms          bytes to rows: JSON, JSON Lines, CSV, TSV, plain or packed
lines          one line of JSON to its value, fast where it can be and strict where it must be
tables         bytes to rows: Parquet, folders that `datasets` saved, data sets of the hub
texts          bytes to rows: plain text, Markdown, HTML, PDF
layouts        which layout rows have, and how that is recognised
conversations  rows to records: chat, ShareGPT, Alpaca, prompts with their completions
pairs          rows to records: chosen and rejected, transcripts, rated completions, labels
trees          rows to records: OpenAssistant
remote         objects of a bucket to files

Benchmarks come in by models/score/benchmarks.py.
"""
