"""`pytest -v tests/lessons` ends with the lessons as a text: each one's claims, and whether they hold."""

import inspect
from pathlib import Path

LESSONS = Path(__file__).parent
_claims: dict[str, dict[str, list[bool]]] = {}  # lesson → claim → a result per case
_of_test: dict[str, tuple[str, str]] = {}       # test → its lesson and its claim


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == LESSONS and hasattr(item, "function"):
            lesson = inspect.getdoc(item.module).splitlines()[0]
            claim = inspect.getdoc(item.function) or item.originalname.removeprefix("test_").replace("_", " ")
            _of_test[item.nodeid] = lesson, " ".join(claim.split("\n\n")[0].split())


def pytest_runtest_logreport(report):
    if report.nodeid in _of_test and (report.when == "call" or report.failed):
        lesson, claim = _of_test[report.nodeid]
        _claims.setdefault(lesson, {}).setdefault(claim, []).append(report.passed)


def pytest_terminal_summary(terminalreporter, config):
    if config.option.verbose < 0:  # -q stands in pyproject.toml
        return
    for lesson, claims in _claims.items():
        terminalreporter.write_line(f"\n{lesson}\n")
        for claim, results in claims.items():
            cases = f" ({len(results)} cases)" if len(results) > 1 else ""
            terminalreporter.write_line(f"  {'✓' if all(results) else '✗'} {claim}{cases}")
