"""Students' answers, right and wrong: read by tests, no tests themselves."""

collect_ignore_glob = ["solutions/*", "wrong.py"]
