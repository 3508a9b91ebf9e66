"""Measurements of hak2k on the real kernel: ``python -m bench``.  See README.md."""
