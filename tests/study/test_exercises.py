"""Every exercise: right code passes, untouched files and wrong code fail, and the message says why."""

import ast
import re
from pathlib import Path

import pytest
from handed_in import SOLUTIONS, hand_in, solution
from wrong import HAND_DROPOUT, WRONG

from minbert_study import checking, grading, rules, starting
from minbert_study.exercise import FILES, NAMES, load
from minbert_study.judging import judge, run_check

CASES = [pytest.param(name, *case, id=f"{name}-{number}")
         for name, cases in WRONG.items() for number, case in enumerate(cases)]


@pytest.mark.parametrize("name", NAMES)
def test_library_passes(name):
    """The library's own answers pass, also against independent implementations."""
    exercise = load(name)
    observed = [{"observed": run_check(check, exercise.reference, 3)} for check in exercise.checks]
    assert [result.lines for result in judge(exercise, observed, None, 3)] == [()] * len(observed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("done", "seed"), [([], checking.SEED), (NAMES, 2024)],
                         ids=["alone", "beside others"])
def test_solution_passes(name, done, seed):
    """Also where all other exercises are done, and stand in for the library's parts."""
    own = [other for other in done if other != name]
    verdict = checking.check_exercise(SOLUTIONS, name, own, seed)
    assert verdict.is_done, "\n".join(checking.lines_of(verdict))
    assert not verdict.misfit


def test_parts_that_do_not_fit(tmp_path):
    """Of two right parts that do not fit each other, both count, and the second names the first."""
    for name in ("gelu", "pooler"):
        hand_in(tmp_path, name)
    hand_in(tmp_path, "embeddings", ("words + positions + types",
                                     "torch.stack([words, positions, types]).sum(0)"))
    hand_in(tmp_path, "bert", (".unsqueeze(0).repeat(batch, 1)", ""))
    verdicts, notes = grading.check_copy(tmp_path, ["embeddings", "gelu", "pooler", "bert"], 1)
    assert all(verdict.is_done for verdict in verdicts.values())
    says = "it fails together with ex01_embeddings.py, so it was checked with the library's parts"
    assert notes == [f"ex08_bert.py: {says}"]
    assert checking.lines_of(verdicts["bert"])[1:3] == [
        f"    {says}",
        "    ex01_embeddings.py, line 20: total = torch.stack([words, positions, types]).sum(0)"]


@pytest.mark.parametrize("name", ["multi_head", "layer", "bert"])
def test_beside_drawing_dropout(name, tmp_path):
    """Dropout by hand draws random numbers for a rate of 0, too; later exercises still fit it."""
    hand_in(tmp_path, "attention", ("F.dropout(weights, dropout)", HAND_DROPOUT))
    hand_in(tmp_path, name)
    verdict = checking.check_exercise(tmp_path, name, ["attention"])
    assert verdict.is_done
    assert not verdict.misfit


@pytest.mark.parametrize("name", NAMES)
def test_untouched_fails(name, tmp_path):
    """Every check fails, and one line says what is not written."""
    starting.start(tmp_path, [name])
    verdict = checking.check_exercise(tmp_path, name, [])
    assert verdict.passed == 0
    [line] = checking.lines_of(verdict)
    assert "is not written yet" in line


@pytest.mark.parametrize(("name", "second"), [("attention", "attention"), ("gram", "cosines")])
def test_first_function_alone(name, second, tmp_path):
    """It is checked before the second one is written."""
    first, _, _ = solution(name).partition(f"def {second}(")
    stub = f"{first}def {second}(*_, **__):\n    raise NotImplementedError\n"
    (tmp_path / FILES[name]).write_text(stub, encoding="utf-8")
    results = checking.check_exercise(tmp_path, name, []).results
    assert [result.passed for result in results[:2]] == [True, True]
    assert "is not written yet" in results[-1].lines[0]


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_told(name):
    """Every mistake's text is in the library's source, makes a check fail, and is recognised."""
    exercise, seed = load(name), checking.SEED
    for says, find, replacement in exercise.mistakes:
        wrong, observed = exercise.with_mistake(find, replacement), []
        for check in exercise.checks:
            try:
                observed.append({"observed": run_check(check, wrong, seed)})
            except Exception as error:
                observed.append({"fault": [repr(error)], "is_begun": True})
        told = [line for result in judge(exercise, observed, None, seed) for line in result.lines]
        assert f"This is what comes out {says}" in told, told


@pytest.mark.parametrize(("name", "find", "replace"), [
    pytest.param("multi_head", "out.transpose(1, 2)", "out.transpose(1, 3)", id="explains a later"),
    pytest.param("layer", "x + self.dropout(a)", "x + 0", id="explains one of many"),
    pytest.param("embeddings", "self.dropout(total)",
                 "nn.functional.dropout(total, self.dropout.p, self.training)", id="not called"),
])
def test_other_causes_are_not_told(name, find, replace, tmp_path):
    """A mistake is not named for what has another cause."""
    verdict = checking.check_exercise(hand_in(tmp_path, name, (find, replace)), name, [])
    assert not verdict.is_done
    assert "This is what comes out" not in "\n".join(checking.lines_of(verdict))


@pytest.mark.parametrize("name", NAMES)
def test_hints_and_lesson(name):
    assert len(load(name).hints) == 3
    template = (starting.TEMPLATES / FILES[name]).read_text(encoding="utf-8")
    [file] = re.findall(r"tests/lessons/(test_\w+\.py)", template)
    lesson = (Path(__file__).parents[1] / "lessons" / file).read_text(encoding="utf-8")
    assert f"minbert study, {FILES[name]}" in " ".join(ast.get_docstring(ast.parse(lesson)).split())
    assert rules.faults(solution(name), name) == []


@pytest.mark.parametrize(("name", "find", "replace", "says"), CASES)
def test_wrong_fails(name, find, replace, says, tmp_path):
    """says None: it is right in another way, or the edit is harmless, and passes."""
    verdict = checking.check_exercise(hand_in(tmp_path, name, (find, replace)), name, [])
    text = "\n".join(checking.lines_of(verdict))
    print(text)
    if says is None:
        assert verdict.is_done, text
    else:
        assert not verdict.is_done
        assert says in text, text
