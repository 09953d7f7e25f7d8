"""examples/browser in headless Chromium: a picture as examples/onnx_predict.py sees it, and a file
as the webcam."""

import json
import runpy
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.yolact.engine.oracle import COLOURS
from tests.yolact.export.test_export import weights  # noqa: F401  a fixture
from tests.yolact.study.report.browser import opened, shown
from yolact.commands.export import program as export

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = EXAMPLES / "browser"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(weights):  # noqa: F811
    """The address of the page with model.onnx beside it, and images/0.png."""
    for name in ("onnxscript", "onnxruntime", "playwright"):
        pytest.importorskip(name)
    if not (PAGE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not there: npm install in examples/browser")
    folder = weights.parent / "page"
    folder.mkdir()
    for name in ("index.html", "app.js", "node_modules"):
        (folder / name).symlink_to(PAGE / name)
    assert export(["model.pth", "--nms", "--images=1", f"--out={folder / 'model.onnx'}"]) == 0
    handler = partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def found(page):
    return json.loads(page.locator("#json").text_content())


def all_shown(page):
    """Brings the lowest score to 0, and says what is found then."""
    page.locator("#score").evaluate(
        "slider => { slider.value = 0; slider.dispatchEvent(new Event('input')); }"
    )
    return found(page)


def python_finds(folder, image):
    example = runpy.run_path(str(EXAMPLES / "onnx_predict.py"))
    return example["Model"](folder / "page" / "model.onnx")(image, score=0)


def test_a_picture_gives_what_python_finds(served, weights):  # noqa: F811
    image = cv2.imread(str(weights.parent / "images" / "1.png"))
    image = cv2.resize(image, (300, 200))  # not square, and brought to 64 pixels
    noise = np.random.default_rng(0).integers(0, 40, image.shape)
    path = weights.parent / "p.png"
    cv2.imwrite(str(path), (image // 2 + noise).astype(np.uint8))
    expected = python_finds(weights.parent, cv2.imread(str(path)))
    with opened() as browser, shown(browser, None, served=served) as page:
        page.get_by_text("2 classes, 64 pixels").wait_for()
        page.locator("#picture").set_input_files(path)
        page.get_by_text("p.png: ").filter(has_text="found").wait_for()
        ours = all_shown(page)
        size = page.locator("#view").evaluate("canvas => [canvas.width, canvas.height]")
        drawn = page.locator("#view").screenshot()
    assert size == [300, 200] and len(drawn) > 1000
    assert len(ours) == len(expected) == 6
    for one, other in zip(ours, expected):
        assert one["name"] == other["name"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=1)


def test_a_webcam_is_looked_at_until_it_is_stopped(served, weights):  # noqa: F811
    frame = np.full((240, 320, 3), 128, np.uint8)
    cv2.rectangle(frame, (60, 60), (180, 180), COLOURS[0][::-1], -1)
    data = cv2.imencode(".jpg", frame)[1].tobytes()
    (weights.parent / "camera.mjpeg").write_bytes(10 * data)
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={weights.parent / 'camera.mjpeg'}",
    )
    expected = python_finds(weights.parent, cv2.imdecode(np.frombuffer(data, np.uint8), 1))
    with opened(*flags) as browser, shown(browser, None, served=served) as page:
        page.get_by_text("2 classes, 64 pixels").wait_for()
        page.locator("#webcam").click()
        page.get_by_text("webcam: ").filter(has_text="found").wait_for()
        page.locator("#webcam", has_text="Stop").click()
        page.locator("#webcam", has_text="Start").wait_for()
        ours = all_shown(page)
        size = page.locator("#view").evaluate("canvas => [canvas.width, canvas.height]")
    # the camera's frames pass through YUV
    assert size == [320, 240] and len(ours) == len(expected)
    assert ours[0]["box"] == pytest.approx(expected[0]["box"], abs=8)


def test_what_goes_wrong_is_said(served, weights):  # noqa: F811
    (weights.parent / "broken.png").write_bytes(b"\x89PNG")
    (weights.parent / "other.onnx").write_bytes(b"\x0f\x0f\x0f")
    with opened() as browser, shown(browser, None, served=served) as page:
        page.get_by_text("2 classes, 64 pixels").wait_for()
        page.locator("#picture").set_input_files(weights.parent / "broken.png")
        status = page.locator("#status.error")
        status.wait_for()
        assert status.text_content() == "broken.png is no picture that this browser reads"
        page.locator("#model").set_input_files(weights.parent / "other.onnx")
        page.get_by_text("this is no ONNX file").wait_for()
        assert status.text_content() == "this is no ONNX file"
