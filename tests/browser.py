"""A real headless Chromium for tests of the HTML report, and why there is none where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def programs() -> tuple[str | None, str | None]:
    """Where Chromium and its driver are."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    return browser, shutil.which("chromedriver")


def why_not() -> str:
    """What is missing for a browser; empty where nothing is."""
    browser, driver = programs()
    if browser and driver:
        return ""
    missing = " and ".join(
        name for name, found in (("chromium", browser), ("chromedriver", driver)) if not found
    )
    return f"no {missing} on this machine; install the packages chromium and chromium-driver"


@contextmanager
def chromium(profile: Path, *, width: int = 1280, height: int = 800, scale: float = 1.0) -> Iterator[Any]:
    """A driver whose window is `width` x `height` CSS pixels, `scale` of the screen's each. `profile`: a folder to be made."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    browser, program = programs()
    options.binary_location = browser or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(program))
    try:
        resize(driver, width, height, scale)
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int, scale: float = 1.0) -> None:
    """The page's own size, which a window has no fixed relation to."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(driver: Any, scheme: str) -> None:
    """The system's colours, `light` or `dark`; and no smooth scrolling, so that nothing has to be waited for."""
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
