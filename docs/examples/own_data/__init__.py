"""Two files in, an adapted model and a report out: `nox -s own -- --source FILE --target FILE`."""
