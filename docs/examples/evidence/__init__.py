"""What each loss is worth on real shifts; `python -m evidence --help`, or `nox -s evidence -- --help`."""
