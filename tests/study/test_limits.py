"""What a student's file may not do, by mistake or on purpose, and what stops it."""

import re
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from handed_in import solution

from minbert_study import checking, rules, worker
from minbert_study.exercise import FILES, load

SOLUTION = solution("attention")
FILE = FILES["attention"]
BODIES = """
def attention_weights(query, key, mask=None):
    return {0}

def attention(query, key, value, mask=None, dropout=0.0):
    return {1}
"""


def check(folder: Path, text: str) -> tuple[checking.Verdict, str]:
    (folder / FILE).write_text(text, encoding="utf-8")
    verdict = checking.check_exercise(folder, "attention", [])
    return verdict, "\n".join(checking.lines_of(verdict))


def with_lines(*lines: str) -> str:
    """The solution with these lines where attention_weights begins."""
    inserted = "".join(f"    {line}\n" for line in lines)
    return solution("attention", ("    scores = query", f"{inserted}    scores = query"))


@pytest.mark.parametrize(("line", "says"), [
    ("from minbert.attention import attention_weights as theirs", "does not give you"),
    ("from . import ex13_pcgrad", "may import"),
    ("import os", "may import"),
    ("from torch.nn.functional import scaled_dot_product_attention as a", "are to write here"),
    ("def f(): return F.scaled_dot_product_attention", "are to write here"),
    ("def f(): return torch.ops.aten.softmax", "ops is not needed"),
    ("from torch import ops", "ops is not needed"),
    ("import torch.utils.cpp_extension", "is not needed"),
    ("def f(): return torch.utils.cpp_extension", "utils is not needed"),
    ("from torch.nn.utils import os", "os is not needed"),
    ("def f(): return eval('1')", "eval is not needed"),
    ("vars = 1", "vars is not needed in this exercise and may not be used; if you chose this name, "
     "choose another"),
    ("def f(): return math.os", "os is not needed"),
    ("def f(): return attention.__globals__", "__globals__ is not needed"),
    ("def f(e): return e.tb_frame", "tb_frame is not needed"),
])
def test_refused_before_it_runs(line, says, tmp_path):
    """The file is read first; the message names the line."""
    verdict, text = check(tmp_path, f"{SOLUTION}\n\n{line}\n")
    assert verdict.passed == 0
    assert says in text
    assert f"{FILE}, line {len(SOLUTION.splitlines()) + 3}: " in text


@pytest.mark.parametrize(("text", "says"), [
    ("def attention_weights(:", "line 1: Python cannot read this"),
    ("x = '\0'", f"{FILE}, Python cannot read this: source code string cannot contain null bytes"),
    pytest.param(f"x = {'1+' * 50_000}1", "Python cannot read this: it is nested too deeply",
                 marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 reads it")),
    (f"x = {'-' * 100_000}1", "Python cannot read this: it is nested too deeply"),
    ("x = 1", "attention_weights is missing: define it with def or class, not indented; the file "
     "defines nothing"),
    ("attention = None", "attention is missing"),
    (BODIES.format("query", "value").replace("attention_weights", "weights"), "is missing"),
    (f"raise SystemExit(0)\n{SOLUTION}", "SystemExit"),
    (f"1 / 0\n{SOLUTION}", "line 1: 1 / 0"),
    (SOLUTION + "# " + "x" * checking.LARGEST_FILE, "is larger than"),
])
def test_no_exercise(text, says, tmp_path):
    verdict, lines = check(tmp_path, text)
    assert verdict.passed == 0
    assert says in lines


@pytest.mark.parametrize(("name", "find", "replace"), [
    ("losses", "log_p", "nll_loss"), ("gram", "rows", "cov"), ("layer_norm", "mean", "batch_norm"),
])
def test_names_of_variables(name, find, replace, tmp_path):
    """A variable may have the name of a function that is refused."""
    text = re.sub(rf"(?<![.\w]){find}\b", replace, solution(name))
    assert f"{replace} =" in text
    (tmp_path / FILES[name]).write_text(text, encoding="utf-8")
    assert checking.check_exercise(tmp_path, name, []).is_done


def test_nothing_to_read(tmp_path):
    """input() reads nothing, least of all what is typed at the terminal."""
    assert "EOFError" in check(tmp_path, with_lines("input()"))[1]


def test_not_text(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    verdict = checking.check_exercise(tmp_path, "attention", [])
    assert "is not UTF-8" in checking.lines_of(verdict)[2]


def test_byte_order_mark(tmp_path):
    """Some editors write one before the text."""
    assert check(tmp_path, f"\ufeff{SOLUTION}")[0].is_done


@pytest.mark.parametrize("body", [
    "torch.tensor([[[[0.25, 0.75]]]])",                          # the answer to the first check
    "query @ key.mT * 0 + 1 / key.shape[-2]",                    # rows that sum to 1
    "__builtins__",
])
def test_made_up_answers(body, tmp_path):
    """An answer that fits one check fails another."""
    text = f"import torch\n{BODIES.format(body, 'attention_weights(query, key, mask) @ value')}"
    assert not check(tmp_path, text)[0].is_done


@pytest.mark.parametrize("line", [
    "torch.allclose = torch.isclose = torch.equal = lambda *a, **k: True",
    "torch.randn = torch.zeros",
])
def test_replaced_functions(line, tmp_path):
    """Expectations are computed in another process, so nothing replaced here reaches them."""
    wrong = SOLUTION.replace(" / math.sqrt(query.shape[-1])", "")
    verdict, _ = check(tmp_path, f"{wrong}\n\n{line}\n")
    assert not verdict.is_done


@pytest.mark.parametrize("wrapper", ["functools.cache", "torch.no_grad()"])
def test_wrapped_functions(wrapper, tmp_path):
    """An input that they change is told by its name."""
    text = SOLUTION.replace("def attention(", f"import functools\n@{wrapper}\ndef attention(")
    text = text.replace("    weights =", "    value *= 2\n    weights =")
    assert "attention changed its input `value` in place" in check(tmp_path, text)[1]


def test_caught_exceptions(tmp_path):
    verdict, _ = check(tmp_path, with_lines(
        "try: 1 / 0", "except BaseException: return torch.zeros(1)"))
    assert verdict.passed == 0
    assert verdict.is_begun


def test_the_library_is_out_of_reach(tmp_path, monkeypatch):
    """Even a file that gets past the rules meets its own code where the answer was."""
    monkeypatch.setattr(rules, "faults", lambda *_: [])
    text = ("def attention_weights(query, key, mask=None):\n"
            "    import minbert.attention\n"
            "    return minbert.attention.attention_weights(query, key, mask)\n"
            "def attention(*a, **k): return attention_weights(*a, **k)\n")
    assert "calls itself endlessly" in check(tmp_path, text)[1]
    text = "from minbert.attention import attention, attention_weights\n"
    assert "of the library was called" in check(tmp_path, text)[1]


@pytest.mark.parametrize(("code", "says"), [
    ("open('{0}', 'w')", "an exercise may not write files"),
    ("import os; os.open('{0}', os.O_CREAT)", "an exercise may not write files"),
    ("import os; os.remove('{0}/{1}')", "os.remove is not needed"),
    ("import shutil; shutil.rmtree('{0}')", "shutil.rmtree is not needed"),
    ("import socket; socket.socket()", "socket.__new__ is not needed"),
    ("import urllib.request as r; r.urlopen('http://localhost')", "is not needed"),
    ("import subprocess; subprocess.run(['true'])", "subprocess.Popen is not needed"),
    ("import os; os.system('true')", "os.system is not needed"),
    ("import os; os.fork()", "os.fork is not needed"),
    ("import os; os.kill(os.getppid(), 9)", "os.kill is not needed"),
    ("import ctypes; ctypes.CDLL(None)", "ctypes.dlopen is not needed"),
])
def test_mischief(code, says, tmp_path, monkeypatch):
    """What gets past the rules is stopped by the process."""
    monkeypatch.setattr(rules, "faults", lambda *_: [])
    verdict, text = check(tmp_path, f"{code.format(tmp_path, FILE)}\n{SOLUTION}")
    assert verdict.passed == 0
    assert says in text, text
    assert (tmp_path / FILE).is_file()


def test_an_optimizer_is_made(tmp_path):
    """torch then looks for a folder of temporary files."""
    assert check(tmp_path, with_lines("torch.optim.SGD([query], lr=0.1)"))[0].is_done


def test_a_file_is_read(tmp_path, monkeypatch):
    """Reading is allowed: torch itself reads files when it is used."""
    monkeypatch.setattr(rules, "faults", lambda *_: [])
    assert check(tmp_path, f"open(__file__).read()\n{SOLUTION}")[0].is_done


@pytest.mark.parametrize(("text", "passed"), [
    (with_lines("while query.shape[0] == 3: pass"), [True, True, False]),
    (f"while True: pass\n{SOLUTION}", [False, False, False]),
    (with_lines("while query.shape[0] == 3: print('x' * 10**6)"), [True, True, False]),
], ids=["in a call", "at import", "that prints"])
def test_endless_loop(text, passed, tmp_path, monkeypatch, capfd):
    """It costs the checks that it is in; those before it keep their result."""
    monkeypatch.setattr(worker, "SECONDS", 3)
    verdict, lines = check(tmp_path, text)
    assert "stopped after 3 seconds" in lines
    assert capfd.readouterr().err == ""
    assert len(verdict.printed) == (worker.PRINTED if "print(" in text else 0)
    assert [result.passed for result in verdict.results[:3]] == passed


def test_ctrl_c(tmp_path, monkeypatch):
    """It ends the process of the student's code as well."""
    joined, join = [], BaseProcess.join

    def interrupted_once(process, timeout=None):
        joined.append(process)
        if len(joined) == 1:
            raise KeyboardInterrupt
        join(process, timeout)

    monkeypatch.setattr(BaseProcess, "join", interrupted_once)
    (tmp_path / FILE).write_text("while True: pass\n")
    with pytest.raises(KeyboardInterrupt):
        worker.observe(tmp_path, "attention", [], 1)
    assert not joined[0].is_alive()


def test_memory(tmp_path):
    """6.4 GB, which are never touched: without the limit there would be no error."""
    line = "torch.empty(8 * 10**8)"
    _, text = check(tmp_path, with_lines(line))
    assert line in text
    assert "can't allocate memory" in text


@pytest.mark.parametrize("after", [[], ["return None"], ["raise NotImplementedError"]])
def test_printed(after, tmp_path):
    """Also by right code, and by code that is not written yet."""
    verdict, lines = check(tmp_path, with_lines("print('shape', tuple(query.shape))", *after))
    assert verdict.printed.startswith("shape (1, 1, 1, 4)\n")
    assert "your code printed:\n        shape (1, 1, 1, 4)" in lines


@pytest.mark.parametrize(("value", "says"), [
    ("'\\ud800' + 'long ' * 10**5", "weights: ?long"), ("10**400", "a very large whole number"),
    ("'hello'", "weights: hello\n        expected a tensor of shape (1, 1, 1, 2)"),
    ("type('Text', (str,), {})('x')", "an object of type Text"),
    ("{1: {2}}", "an object of type set"),
    ("query.to_sparse()", "attention_weights returned a sparse tensor"),
])
def test_what_is_no_tensor(value, says, tmp_path):
    """It is told in one short line that can be written to a file."""
    _, text = check(tmp_path, BODIES.format(value, value))
    assert says in text
    assert len(text.encode()) < 3000


def test_subclass_of_tensor(tmp_path, capfd):
    """It counts as the tensor that it is."""
    text = SOLUTION.replace("    return torch.softmax(scores, dim=-1)",
                            "    class Own(torch.Tensor): pass\n"
                            "    return torch.softmax(scores, dim=-1).as_subclass(Own)")
    assert check(tmp_path, text)[0].is_done
    assert capfd.readouterr().err == ""


def test_special_line_breaks(tmp_path):
    """A form feed or U+2028 within a line is no new line where an error's line is shown."""
    text = "# \f \u2028 \x85\n" + with_lines("1 / 0")
    number = text[:text.index("1 / 0")].count("\n") + 1
    assert f"{FILE}, line {number}: 1 / 0" in check(tmp_path, text)[1]


def test_own_parts(tmp_path):
    """A finished exercise takes the library's place in the others."""
    (tmp_path / FILE).write_text(SOLUTION.replace("torch.softmax(scores, dim=-1)", "scores"))
    assert load("attention").names == ["attention_weights", "attention"]
    (tmp_path / FILES["adamw"]).write_text(
        "import torch\nimport minbert.attention\ndef adamw_update(theta, *a, **k):\n"
        "    theta.copy_(minbert.attention.attention_weights(*torch.ones(2, 1, 1, 2, 1)).sum())\n")
    [first, *_] = worker.observe(tmp_path, "adamw", ["attention"], 1)[0]
    assert first["observed"]["theta"].tolist() == [4.0] * 3  # scores, not weights that sum to 1


def test_large_results(tmp_path, capfd):
    """A result that is too large to be passed on is a fault of that check alone."""
    verdict, text = check(tmp_path, BODIES.format("query.new_zeros(10_000_000)", "value"))
    assert "80,00" in text
    assert "bytes came back, far too many: check the shapes" in text
    assert verdict.end is None
    assert capfd.readouterr().err == ""
