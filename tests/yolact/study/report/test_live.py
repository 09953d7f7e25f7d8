"""The page of a running study: what it tells, whom it answers, and how it ends."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.yolact.study.report.browser import opened, shown
from tests.yolact.study.report.small_study import HYBRID, place
from yolact.commands import report
from yolact.study.report.live import server, watch
from yolact.study.report.live.watch import Watched

ROOT = Path(__file__).parents[4]


@pytest.fixture
def running(study):
    """The finished study with one run of dice half way, one not begun."""
    half = place(study, "dice", 2)
    (half / "results" / "records.npz").unlink()
    lines = (half / "metrics.jsonl").read_text().splitlines()
    (half / "metrics.jsonl").write_text("\n".join(lines[:200]) + "\n")
    shutil.rmtree(place(study, "dice", 1))
    return study


@pytest.fixture
def served(running):
    """(process, port, folder) of a server, which is ended."""
    words = [sys.executable, "-m", "yolact", "report", str(running), "--serve", "--images", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline()
        yield process, int(re.match(r"http://127\.0\.0\.1:(\d+)/ ", url)[1]), running
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(port, path="/", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def until(port, words, seconds=240):
    """The page, once the words are on it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, text = asked(port)
        if status == 200 and words in text:
            return text
        time.sleep(0.5)
    raise AssertionError(f"{words!r} never came: {text[-2000:]}")


def test_it_tells_progress_and_what_is_known_so_far(running):
    watched = Watched(running)
    watched.look()
    assert "<b>Provisional</b>: 7 of 9 runs are finished" in watched.html
    assert watched.curves is not None and "mask loss" in watched.html
    shares = re.findall(r'<td class="(\w+)">([^<]*)</td>', str(watched.live_html()))
    assert [state for state, _ in shares].count("done") == 7
    assert ("interrupted", "(50%)") in shares and ("waiting", ".") in shares
    first = watched.version
    watched.look()
    assert watched.version == first  # nothing was finished: the page stays
    (place(running, "bce", 1) / "results" / "records.npz").unlink()
    watched.look()
    assert watched.version != first and "6 of 9 runs" in watched.html


def test_a_changed_plan_makes_the_page_again(running, monkeypatch):
    monkeypatch.setattr(Watched, "_page", lambda _, plan, finished, due: f"{finished} of {due}")
    watched = Watched(running)
    watched.look()
    assert watched.html == "7 of 9"
    file, first = running / "study.yaml", watched.version
    file.write_text(file.read_text().replace("added_seeds: []", "added_seeds: [7]"))
    watched.look()
    assert watched.version != first and watched.html == "7 of 12"


def test_the_curves_take_the_baseline_of_the_verdicts(running, monkeypatch):
    file = running / "study.yaml"
    written = HYBRID.replace(" ", "")  # not as its arm is called
    file.write_text(file.read_text().replace("baseline: bce\n", f'baseline: "{written}"\n'))
    asked = []
    monkeypatch.setattr(watch, "curve_figure", lambda *words: asked.append(words[2]))
    watched = Watched(running)
    watched._draw_curves(watched._plan)
    assert asked == [HYBRID]


def test_an_answer_resolves_nothing(running, monkeypatch):
    """A tuning's outcome is written where the plan is resolved: in one thread alone."""
    watched = Watched(running)
    monkeypatch.delattr(watch, "plan_of")
    assert "small_study" in watched.first_page() and "(50%)" in watched.live_html()


@contextlib.contextmanager
def answering(watched):
    """The port of a server in this process."""
    with server.LiveServer(watched) as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        try:
            yield one.server_port
        finally:
            one.shutdown()
            thread.join()


def test_what_cannot_be_told_is_a_line(running, monkeypatch, capsys):
    watched = Watched(running)

    def fails():
        raise ValueError("metrics.jsonl is half there")

    monkeypatch.setattr(watched, "live_html", fails)
    with answering(watched) as port:
        assert asked(port, "/progress") == (503, "metrics.jsonl is half there\n")
        assert asked(port, "/nothing")[0] == 404
    assert "Traceback" not in capsys.readouterr().err


def test_a_slow_line_gets_the_whole_page(running, monkeypatch):
    monkeypatch.setattr(server._Handler, "timeout", 0.5)
    watched = Watched(running)
    watched.html = "x" * 30_000_000
    with answering(watched) as port, socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        time.sleep(1.5)
        size = sum(len(part) for part in iter(lambda: line.recv(1_000_000), b""))
    assert size > 30_000_000


def test_a_browser_that_leaves_is_not_told_of(running, capsys):
    watched = Watched(running)
    watched.html = "x" * 30_000_000
    with answering(watched) as port:
        with socket.create_connection(("127.0.0.1", port), 60) as line:
            line.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            line.recv(1000)
        time.sleep(0.5)
        assert asked(port, "/nothing")[0] == 404
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_an_end_leaves_no_half_written_file(running, monkeypatch, told):
    def look():
        with writing_whole(running / "bounds.json"):
            signal.raise_signal(told)
            time.sleep(30)

    watched = Watched(running)
    monkeypatch.setattr(watched, "look", look)
    began = time.monotonic()
    assert server.serve(watched) == 0 and time.monotonic() - began < 20
    assert list(running.glob(".*.part")) == []


@contextlib.contextmanager
def writing_whole(path):
    """As files are written everywhere: what is not whole is taken away."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text("half")
        yield
    finally:
        partial.unlink()


def test_before_a_run_is_finished_it_says_so(running):
    for records in running.glob("*/seed*/results/records.npz"):
        records.unlink()
    watched = Watched(running)
    watched.look()
    assert "no run is finished" in watched.html and "(50%)" in watched.html
    assert "Provisional" not in watched.html and watched.curves is not None


def test_a_browser_sees_it_and_it_ends_cleanly(served):
    process, port, folder = served
    until(port, "Provisional")
    # whoever asks by another name is refused: a page elsewhere could have one that leads here
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert asked(port, host=name)[0] == 403
    assert asked(port, host=f"localhost:{port}")[0] == 200 and asked(port, "/etc/passwd")[0] == 404
    news = json.loads(asked(port, "/progress")[1])
    assert f'data-live="{news["version"]}"' in asked(port)[1] and "(50%)" in news["html"]
    with opened() as browser:
        with shown(browser, None, served=f"http://127.0.0.1:{port}/") as page:
            assert page.inner_text("#tabs a[aria-current]") == "Progress"
            page.wait_for_selector("#live-told:not(:empty)")
            assert page.locator("#progress td.done").count() == 7
            page.click('#tabs a[href="#verdicts-tab"]')
            style = (
                "getComputedStyle(document.querySelector('#answer .verdict'), '::after').content"
            )
            assert "provisional" in page.evaluate(style)
            records = place(folder, "bce", 1) / "results" / "records.npz"
            records.rename(records.with_name("away.npz"))  # as if the run was not finished yet
            page.wait_for_selector("text=6 of 9 runs", timeout=240e3)
            assert page.evaluate("location.hash") == "#verdicts-tab"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with pytest.raises(ConnectionError):
        asked(port)


def test_ctrl_c_ends_it(served):
    process, port, _ = served
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0 and process.stdout.read().endswith("closed\n")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--serve", "--port", "99999999"], "--port"),
        (["--serve", "--out", "x"], "--out"),
        (["--port", "8000"], "--serve"),
    ],
)
def test_mistakes_are_one_line(study, capsys, words, said):
    assert report.program([str(study), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_a_port_that_is_taken_is_one_line(served, capsys):
    _, port, folder = served
    assert report.program([str(folder), "--serve", "--port", str(port)]) == 2
    assert f"--port={port}" in capsys.readouterr().err
    assert report.program([str(folder.parent), "--serve"]) == 2
    assert "no study that has begun" in capsys.readouterr().err
