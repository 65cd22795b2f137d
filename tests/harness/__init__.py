"""The parts of tests/run.py that need more than one cargo command."""
