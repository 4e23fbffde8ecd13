"""Take the docs' pictures of the HTML report in a real browser: docs/pictures/report*.png.

    make pictures                                   of the report in STORE, which `make demo` fills
    python -m tests.pictures STORE/report           the same, without building the report again

Each picture holds the digest of the page's templates, by which a test notices that the page has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.browser import chromium, prefer, why_not

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
TEMPLATES = ROOT / "reports" / "render" / "templates"
NAMES = ("report", "report-dark", "report-cell", "report-figure")
KEY = "page"  # of the digest in a picture
WIDTH, HEIGHT, SCALE = 1280, 800, 1.5
COLOURS, ROUNDS = 256, 4  # a page has few; rounds of k-means keep those of small marks
SETTLED = 0.3  # seconds for the browser to notice where the pointer is
CELL = "digits-ham-main--table--ham-official-code--pgd-20-worst"
FIGURE = "digits-class-bars"


def digest() -> str:
    """Of everything that shapes the page."""
    files = sorted(path for path in TEMPLATES.iterdir() if path.is_file())
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def written_digest(path: Path) -> str | None:
    """That of the page that the picture shows."""
    with Image.open(path) as picture:
        return picture.info.get(KEY)


def take(report: Path, folder: Path) -> None:
    """All pictures of the page `report`/index.html."""
    from selenium.webdriver import ActionChains

    page = (report / "index.html").resolve().as_uri()
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile) / "profile", width=WIDTH, height=HEIGHT, scale=SCALE) as driver,
    ):

        def show(fragment: str = "", scheme: str = "light") -> None:
            prefer(driver, scheme)
            driver.get("about:blank")
            driver.get(page + fragment)

        show()
        save(driver, folder / "report.png")
        show(scheme="dark")
        driver.execute_script("document.querySelectorAll('.titles .sort')[5].click()")
        save(driver, folder / "report-dark.png")
        show(f"#{CELL}")
        driver.execute_script("document.querySelector('section.sweep').scrollIntoView()")
        save(driver, folder / "report-cell.png")
        show(f"#{FIGURE}")
        marks = driver.find_elements("css selector", f"#{FIGURE} [data-name^='HAM (official'][data-mark]")
        ActionChains(driver).move_to_element(marks[-2]).perform()
        save(driver, folder / "report-figure.png")


def save(driver: Any, path: Path) -> None:
    """What the window shows, in few colours, with the digest."""
    info = PngInfo()
    info.add_text(KEY, digest())
    time.sleep(SETTLED)
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, ROUNDS, dither=Image.Dither.NONE).save(
        path, optimize=True, pnginfo=info
    )
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.pictures", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("report", type=Path, help="the folder of a report of the digits sweep")
    report = parser.parse_args().report
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    if not (report / "index.html").exists():
        print(f"{report}: no index.html; build it with ham report --out {report}", file=sys.stderr)
        return 2
    take(report, FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
