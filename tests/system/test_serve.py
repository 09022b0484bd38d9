"""The page and its JSON API: answers, bounds, many at once, and a real browser."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import requests
import uvicorn
from programs import ROOT

from multitask import MultitaskBert, serve
from multitask.serving import app as api
from multitask.serving import limits

PAIR = ["A dog runs.", "A dog is running."]
TEXT = "A film worth seeing twice, <b>unbelievably</b>."
Ask = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def model(trained) -> MultitaskBert:
    return MultitaskBert.from_pretrained(trained)


@contextmanager
def serving(model: MultitaskBert) -> Iterator[str]:
    """The address at which the model is served, by a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(api.build_app(model, "served", serve.OWN_NAMES),
                                               log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with serving(model) as address:
        yield address


def ask_once(address: str) -> requests.Response:
    return requests.post(f"{address}/api/predict", json={"inputs": [["a"]]}, timeout=60)


@pytest.fixture(scope="module")
def ask(address) -> Ask:
    return lambda name, /, **body: requests.post(f"{address}/api/{name}", json=body, timeout=60)


def test_predict(ask, model):
    """One question or many, one task or all: what model.predict answers."""
    found = ask("predict", inputs=[[TEXT], PAIR, ["No."]]).json()
    assert [sorted(answers) for answers in found["answers"]] == [["sst"], ["para", "sts"], ["sst"]]
    for task, place, texts in (("sst", 0, TEXT), ("para", 1, tuple(PAIR)), ("sts", 1, tuple(PAIR))):
        labels, probabilities = model.predict(task, [texts])
        answer = found["answers"][place][task]
        assert answer["label"] == labels[0].item()
        if probabilities is None:
            assert answer["probabilities"] is None
        else:
            assert list(answer["probabilities"]) == list(model.tasks[task].labels)
            assert list(answer["probabilities"].values()) == pytest.approx(probabilities[0],
                                                                           abs=1e-6)
    assert found["cut"] == 0
    long = "long " * 600
    assert ask("predict", task="sst", inputs=[[long]]).json()["cut"] == 1
    assert ask("predict", inputs=[[long], [long, "b"], ["a"]]).json()["cut"] == 2


def test_inside(ask, model):
    """Words, attention and gradients come through as multitask.explanations computes them."""
    found = ask("words", task="sst", texts=[TEXT], method="gradient", label="neutral").json()
    assert found["label"] == "neutral"
    assert "<" in [word["text"] for word in found["words"]]
    default = ask("words", task="para", texts=PAIR).json()
    assert default["label"] == model.predict("para", [tuple(PAIR)]).labels[0]
    assert isinstance(ask("words", task="sts", texts=PAIR).json()["label"], float)

    [attention] = ask("attention", task="sst", texts=[TEXT], layer=1, head=0).json()
    assert [sum(row) for row in attention["weights"]] == pytest.approx(
        [1] * len(attention["pieces"]), abs=.01)
    wishes = ask("gradients", texts=PAIR,
                 answers={"sst": "positive", "para": 1, "sts": 4.5}).json()
    assert wishes["tasks"] == ["sst", "para", "sts"]
    assert wishes["surgery"]["sum"]["weights"] == [1, 1, 1]


def test_schema(address):
    """The schema names each path."""
    schema = requests.get(f"{address}/openapi.json", timeout=60).json()
    assert set(schema["paths"]) == {f"/api/{name}" for name in (
        "run", "predict", "words", "attention", "gradients")}
    run = requests.get(f"{address}/api/run", timeout=60).json()
    assert run["tasks"][0]["labels"][2] == "neutral"
    assert [task["classes"] for task in run["tasks"]] == [5, 2, 0]
    assert [task["range"] for task in run["tasks"]] == [None, None, [0, 5]]
    assert run["tasks"][0]["example"] == ["A film worth seeing twice."]
    assert run["sample_tasks"] == []  # trained on files


REFUSED = {
    "no task": ("words", {"task": "none", "texts": ["a"]}, "the model has no task 'none'"),
    "pair missing": ("words", {"task": "para", "texts": ["a"]}, "para takes 2 sentences"),
    "unknown label": ("words", {"task": "sst", "texts": ["a"], "label": "fine"}, "expected one of"),
    "method": ("words", {"task": "sst", "texts": ["a"], "method": "magic"}, "body.method"),
    "layer": ("attention", {"task": "sst", "texts": ["a"], "layer": 99, "head": 0}, "layer is 99"),
    "many tokens": ("attention", {"task": "sst", "texts": ["a " * 300], "layer": 0, "head": 0},
                    "302 tokens; attention is shown for 128"),
    "many words": ("words", {"task": "sst", "texts": ["a " * 300]}, "300 words"),
    "items": ("predict", {"inputs": [["a"]] * 65}, "at most 64"),
    "long text": ("predict", {"inputs": [["a" * 20_001]]}, "at most 20000"),
    "no text": ("predict", {"inputs": [[]]}, "at least 1"),
    "three texts": ("predict", {"inputs": [["a", "b", "c"]]}, "at most 2"),
    "a number": ("predict", {"inputs": [[3]]}, "valid string"),
    "half a character": ("predict", {"inputs": [["\ud800"]]}, "body.inputs.0.0"),
    "another key": ("predict", {"inputs": [["a"]], "path": "/etc/passwd"}, "body.path"),
    "range": ("gradients", {"texts": PAIR, "answers": {"sts": "9"}}, "a number from 0 to 5"),
    "nothing asked": ("gradients", {"texts": PAIR, "answers": {}}, "at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(ask, case):
    path, body, message = REFUSED[case]
    answer = ask(path, **body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert len(answer.text) < 400


HOSTILE = {
    "not JSON": (b"{", 422),
    "deep": (b"[" * 100_000, 400),
    "not UTF-8": (b'{"inputs": [["\xff"]]}', 400),
    "not a number": (b'{"task": "sst", "texts": ["a"], "layer": NaN, "head": 0}', 422),
    "huge number": (b'{"task": "sst", "texts": ["a"], "head": 0, "layer": 1' + b"0" * 5000 + b"}",
                    400),
    "too large": (b" " * (limits.BODY + 1), 413),
    "empty": (b"", 422),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bodies(address, case):
    """Refused in one line, without a path or a traceback; then the server answers as before."""
    body, status = HOSTILE[case]
    answer = requests.post(f"{address}/api/attention", data=body, timeout=60,
                           headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()) == {"detail"}
    assert "/" not in answer.text
    assert "Traceback" not in answer.text
    assert requests.get(f"{address}/api/run", timeout=60).status_code == 200


def test_other_sites(address):
    """A page of another site can neither call the API nor read a file through it."""
    body = json.dumps({"inputs": [["a"]]})
    plain = requests.post(f"{address}/api/predict", data=body, timeout=60,
                          headers={"content-type": "text/plain"})  # what needs no leave of ours
    assert plain.status_code == 422
    rebound = requests.get(f"{address}/api/run", headers={"host": "elsewhere.example"}, timeout=60)
    assert rebound.status_code == 400
    for path in ("/?file=/etc/passwd", "/..%2f..%2fapp.py", "/%2fetc%2fpasswd", "/../app.py"):
        with requests.Session() as session:
            request = requests.Request("GET", address).prepare()
            request.url = address + path  # as it stands, not tidied
            answer = session.send(request, timeout=60)
        assert answer.status_code == 404 or "<title>minbert</title>" in answer.text
    page = requests.get(address, timeout=60)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text
    assert "access-control-allow-origin" not in page.headers


def test_parallel(ask):
    """Equal answers, bit for bit, to those of one request at a time."""
    bodies = [{"inputs": [[f"film number {number} " * (number % 5 + 1)], PAIR]}
              for number in range(40)]
    alone = [ask("predict", **body).text for body in bodies]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda body: ask("predict", **body).text, bodies))
        explained = list(threads.map(
            lambda _: ask("words", task="para", texts=PAIR, method="gradient").text, range(16)))
    assert together == alone
    assert len(set(explained)) == 1


@pytest.fixture
def held(model, monkeypatch) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """A server whose first computation waits: its address, "it began", and "go on"."""
    began, go_on = threading.Event(), threading.Event()

    def waiting(model, body):
        began.set()
        assert go_on.wait(60)
        return api.Predictions(answers=[], cut=0)

    monkeypatch.setattr(api, "predictions", waiting)
    with serving(model) as address:
        try:
            yield address, began, go_on
        finally:
            go_on.set()


def test_queue(held, monkeypatch):
    """A request that would wait too long, or behind too many others, gets 503.

    It is told when to retry. The others are answered.
    """
    address, began, go_on = held
    monkeypatch.setattr(limits, "WAITING", 2)
    monkeypatch.setattr(limits, "WAITING_SECONDS", 1.5)

    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(ask_once, address)
        assert began.wait(60)
        others = [threads.submit(ask_once, address) for _ in range(4)]
        answers = [other.result() for other in others]
        go_on.set()
        assert first.result().status_code == 200
    assert [answer.status_code for answer in answers] == [503] * 4
    assert all(answer.headers["retry-after"] == "5" for answer in answers)
    waited = sorted(answer.elapsed.total_seconds() for answer in answers)
    assert waited[1] < waited[2] - .5  # two were beyond the queue; two in it waited without success
    assert ask_once(address).status_code == 200


def test_slow_answer(held, monkeypatch):
    """A request that takes too long gets 503.

    The next is answered once that computation has ended.
    """
    address, began, go_on = held
    monkeypatch.setattr(limits, "ANSWER_SECONDS", .3)
    answer = ask_once(address)
    assert began.is_set()
    assert answer.status_code == 503
    assert "not done after 0 seconds" in answer.json()["detail"]

    monkeypatch.setattr(limits, "WAITING_SECONDS", .3)
    assert "too many requests" in ask_once(address).json()["detail"]
    go_on.set()
    monkeypatch.setattr(limits, "WAITING_SECONDS", 30)
    assert ask_once(address).ok


def test_slow_body(address, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", .3)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n"
                       b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_client_that_goes():
    """Half a body is not taken for a whole one."""
    messages = iter([{"type": "http.request", "body": b"{}", "more_body": True},
                     {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    async def app(*_):
        raise AssertionError("the application was called")

    anyio.run(limits.Bounded(app), {"type": "http"}, receive, None)


def test_failure(model, monkeypatch):
    """An error of ours is one line without its reason, which may hold a path."""
    def broken(model, body):
        raise RuntimeError(f"no file {Path.home()}")

    monkeypatch.setattr(api, "predictions", broken)
    with serving(model) as address:
        answer = ask_once(address)
        assert answer.status_code == 500
        assert answer.json() == {"detail": "internal error; the server's terminal has the reason"}


def test_command(trained, refused, empty_folder, monkeypatch):
    """The command prints its address, answers there, and Ctrl-C is its usual end."""
    command = [sys.executable, "-m", "multitask.serve", str(trained), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[0]
            assert requests.get(f"{address}/api/run", timeout=60).json()["name"] == "run"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use; --port 0" in refused(
            trained, "--port", port, main=serve.main)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is missing: pip install 'minbert[serve]'" in refused(trained, main=serve.main)


@pytest.mark.parametrize(("host", "message"), [
    ("::", "--host :: --port 8000: Address family"), ("", "--host is empty")])
def test_addresses(trained, host, message, refused, empty_folder):
    """Only a port that is taken gets the advice to take a free one."""
    error = refused(trained, "--host", host, main=serve.main)
    assert message in error
    assert "--port 0" not in error


@pytest.fixture
def browser() -> Iterator:
    from selenium import webdriver

    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in found.items():
        if path is None:
            pytest.skip(f"{name} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                 "--window-size=1200,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    yield driver
    driver.quit()


def test_browser(browser, address, model):
    """By keyboard alone: type, ask, read; then words, attention, gradients; at 400 pixels too."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def find(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    wait = WebDriverWait(browser, 30)
    browser.get(address)
    wait.until(lambda _: browser.title == "served: minbert")
    first = find("#first")[0]
    first.clear()
    first.send_keys(TEXT, Keys.CONTROL, Keys.ENTER)
    wait.until(lambda _: find("#answers [data-task=sst] .label"))
    label, probabilities = (each[0] for each in model.predict("sst", [TEXT]))
    assert find("[data-task=sst] .label")[0].text == label
    assert [each.text for each in find("[data-task=sst] .number")] == [
        f"{value:.2f}".removeprefix("0") for value in probabilities]
    assert "needs a second sentence" in find("[data-task=para]")[0].text

    find("#second")[0].send_keys("Twice.", Keys.TAB, Keys.ENTER)  # the button comes next
    wait.until(lambda _: find("[data-task=sts] .label"))
    assert find("[data-task=sts] .label")[0].text == format(
        model.predict("sts", [(TEXT, "Twice.")]).labels[0], ".2f")

    find("#words button")[0].send_keys(Keys.ENTER)
    wait.until(lambda _: find(".word"))
    assert "<" in [each.text.split("\n")[0].rstrip(" −.0123456789") for each in find(".word")]
    assert not find(".word b")  # what is typed stays text
    find("#attention button")[0].send_keys(Keys.ENTER)
    wait.until(lambda _: find(".map"))
    assert len(find(".map tbody tr")) == len(model.tokenizer.encode([TEXT])[0].ids)

    find("#gradients button")[0].send_keys(Keys.ENTER)
    wait.until(lambda _: find("#gradients + .problem")[0].text == "choose a right answer")
    Select(find("[name=answer-sst]")[0]).select_by_visible_text("neutral")
    find("[name=answer-sts]")[0].send_keys("4.5", Keys.ENTER)
    wait.until(lambda _: len(find("#gradients-result table")) == 4)
    # a screen reader announces this, not the tables
    assert find("[role=status]")[0].get_attribute("textContent") == "The numbers are below."
    assert not find("[aria-live] table")

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
