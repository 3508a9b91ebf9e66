"""The version, alone, so that nothing has to be imported to read it.

pyproject.toml and CHANGELOG.md bear it too; a test compares them.
"""

__version__ = "0.1.0"
