"""Pages on saved models: everything is there, nothing is loaded, and a real browser shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow import Schedule
from fxgrow.errors import FileError
from fxgrow.files.reporting import Report, counts_by_stage, report_of
from fxgrow.history import history_of
from fxgrow.writing import write_text
from tests.test_pages import Checked

X = torch.randn(2, 5)


def made(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that grew twice, saved, beside a module that builds its original."""
    folder = tmp_path_factory.mktemp("saved")
    grown = fxgrow.grow(fxgrow.grow(made(), 2, example_inputs=X, init="mirror"), 1.5)
    fxgrow.save(grown, folder / "grown.safetensors")
    (folder / "schedule.json").write_text(Schedule.linear(3, epochs=9).between(made(), made(32), X).to_json())
    return folder


def test_a_page_has_plans_certificates_and_births(saved: Path) -> None:
    checked = Checked(report_of(saved / "grown.safetensors").html())
    assert "Sequential, 75 → 147 parameters" in checked.text and "Sequential, 147 → 219 parameters" in checked.text
    for heading in ("Growths", "Growth 1: plan", "Growth 2: certificate", "Births"):
        assert heading in checked.text
    assert checked.seen.count("svg") == 2
    assert "elements by birth stage" in checked.text and "0.bias" in checked.text
    assert "Scale" not in checked.text and "Schedule" not in checked.text


def test_beside_the_original_it_is_proved_anew_and_has_the_scale(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxgrow.files.reporting.find", lambda name, pretrained: made())
    report = report_of(saved / "grown.safetensors", "made", schedule=saved / "schedule.json")
    assert report.certificate is not None and str(report.certificate.verdict) == "PROVED"
    checked = Checked(report.html())
    for said in (
        "Certificate beside the original",
        "variance of new units",
        "rho the second moment",
        "3 stages, 9 epochs",
    ):
        assert said in checked.text
    assert checked.seen.count("svg") == 4


def test_tables_stand_alone_where_matplotlib_is_missing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    checked = Checked(report_of(saved / "grown.safetensors", schedule=saved / "schedule.json").html())
    assert checked.seen.count("svg") == 2 and "3 stages, 9 epochs" in checked.text


def test_names_cannot_break_a_page(saved: Path) -> None:
    plain = report_of(saved / "grown.safetensors")
    header = {**plain.header, "base": "<img src=x onerror=alert(1)>", "model": "</title><script>alert(1)</script>"}
    text = Report("<b>.safetensors", header, plain.history).html()
    assert "<img" not in text and "<script" not in text
    assert "</title><script>alert(1)</script>" in Checked(text).text


def test_it_prints_a_paragraph_for_each_growth(saved: Path) -> None:
    first, second = str(report_of(saved / "grown.safetensors")).split("\n\n")
    assert first.startswith("Growth 1: Sequential, 75 → 147 parameters (x1.96), ")
    assert "(init=mirror, seed=0). Certificate: PROVED. TESTED: relative error" in first
    assert second.startswith("Growth 2: Sequential, 147 → 219 parameters")


def test_elements_are_counted_by_stage(saved: Path) -> None:
    history = history_of(fxgrow.load(saved / "grown.safetensors", made()))
    assert history is not None
    assert counts_by_stage(history) == {0: 75, 1: 72, 2: 72}


def test_a_schedule_that_cannot_be_read_is_named(saved: Path) -> None:
    with pytest.raises(FileError, match=r"the schedule cannot be read: .* \(at .*none.json\): check the path"):
        report_of(saved / "grown.safetensors", schedule=saved / "none.json")


def test_a_page_that_cannot_be_written_is_said_in_a_line(saved: Path) -> None:
    with pytest.raises(FileError, match=r"^there is a folder of that name \(at .*\): give the file a name$"):
        write_text(saved, report_of(saved / "grown.safetensors").html())


BROWSER = """
import json, os, sys
from PyQt6.QtCore import QTimer, QUrl
from PyQt6.QtWebEngineCore import QWebEngineUrlRequestInterceptor
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

app = QApplication(sys.argv)
asked = []

class Watching(QWebEngineUrlRequestInterceptor):
    def interceptRequest(self, info):
        asked.append(info.requestUrl().toString())

view, watching = QWebEngineView(), Watching()
view.page().profile().setUrlRequestInterceptor(watching)
view.resize(1000, 800)
view.show()
LOOK = '''JSON.stringify({
    wide: document.documentElement.scrollWidth, window: window.innerWidth,
    pictures: [...document.querySelectorAll("svg")].map(x => x.getBoundingClientRect()).map(x => [x.width, x.height]),
    outside: [...document.querySelectorAll("svg.fxgrow-plan")].flatMap(svg => [...svg.querySelectorAll("text, rect")]
        .filter(x => x.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1).map(x => x.textContent)),
    ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor})'''

def looked(found):
    print(json.dumps({**json.loads(found), "asked": asked}))
    app.quit()

view.loadFinished.connect(lambda fine: view.page().runJavaScript(LOOK, looked) if fine else app.exit(1))
view.load(QUrl.fromLocalFile(sys.argv[1]))
QTimer.singleShot(60000, lambda: app.exit(1))
sys.exit(app.exec())
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(saved: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Chromium, as Qt brings it: pip install PyQt6-WebEngine."""
    pytest.importorskip("PyQt6.QtWebEngineCore")
    monkeypatch.setattr("fxgrow.files.reporting.find", lambda name, pretrained: made())
    report = report_of(saved / "grown.safetensors", "made", schedule=saved / "schedule.json")
    page = saved / "report.html"
    page.write_text(report.html(), encoding="utf-8")
    dark = " --blink-settings=preferredColorScheme=0" if scheme == "dark" else ""
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setenv("QTWEBENGINE_CHROMIUM_FLAGS", f"--no-sandbox --disable-gpu{dark}")
    ran = subprocess.run([sys.executable, "-c", BROWSER, str(page)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["asked"] == [page.as_uri()]
    assert seen["wide"] <= seen["window"]
    assert len(seen["pictures"]) == 4
    assert all(width > 300 and height > 100 for width, height in seen["pictures"])
    assert seen["outside"] == []
    assert (seen["paper"] == "rgb(255, 255, 255)") is (scheme == "light")
    assert seen["ink"] != seen["paper"]
