"""Read two files, write an adapted model and a report: `nox -s own -- --source FILE --target FILE`."""
