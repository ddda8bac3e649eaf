"""Built pages in headless Chromium: what they say to the console, what they ask of a network, what hinders readers.

    python docs/look.py docs/_build/html                       # every page, light, dark and on a phone
    python docs/look.py docs/_build/html --only index start/ten-minutes --shots shots
    python docs/look.py docs/_build/html --axe node_modules/axe-core/axe.min.js    # npm install axe-core
    python docs/look.py runs/demo/report.html                  # one file

A line for each fault, exit code 1 where there is one. Faults are console messages, requests that leave the machine, a
page that scrolls sideways, and axe's serious and critical violations of WCAG 2.1 A and AA. Needs selenium, chromium,
chromedriver.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver

ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
LOOKS = {"light": (1300, False), "dark": (1300, True), "phone": (390, False)}
AXE = """const done = arguments[0], rules = ["wcag2a", "wcag2aa", "wcag21aa"];
axe.run(document, {preload: false, runOnly: rules}).then((found) => done(found.violations.map(
  (v) => [v.impact, v.id, v.nodes.length, v.nodes[0].target.join(" ")])));"""
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


def browser(profile: str) -> Any:
    """The system's Chromium by the system's driver."""
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(300)
    return driver


def look(driver: Any, width: int, dark: bool) -> None:
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})


def faults(driver: Any, page: Path, axe: str, shot: Path | None) -> Iterator[str]:
    """What is wrong with the page as it is seen now."""
    driver.get(page.as_uri())
    yield from (f"console: {entry['message']}" for entry in driver.get_log("browser"))
    yield from (f"asks for {url}" for url in asked(driver) if not url.startswith(("file:", "data:", "blob:", "about:",
                                                                                   "chrome:")))
    if (wider := driver.execute_script(WIDER)) > 0:
        yield f"scrolls sideways by {wider} px"
    if shot:
        shot.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(shot))
    if axe:
        driver.execute_script(axe)
        yield from (f"axe {impact}: {rule}, {count} times, first at {where}"
                    for impact, rule, count, where in driver.execute_async_script(AXE)
                    if impact in ("serious", "critical"))


def asked(driver: Any) -> Iterator[str]:
    """Addresses that were asked for since the last call."""
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--only", nargs="*", help="pages, without .html")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    parser.add_argument("--axe", type=Path, help="axe.min.js")
    options = parser.parse_args()
    site = options.site.resolve()
    pages = [site] if site.is_file() else sorted(site.rglob("*.html"))
    root, found = site.parent if site.is_file() else site, 0
    axe = options.axe.read_text() if options.axe else ""
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        for page in pages:
            name = page.relative_to(root).with_suffix("").as_posix()
            if options.only and name not in options.only:
                continue
            for how, (width, dark) in LOOKS.items():
                look(driver, width, dark)
                shot = options.shots / f"{name}-{how}.png" if options.shots else None
                for fault in faults(driver, page, axe, shot):
                    found += 1
                    print(f"{name} ({how}): {fault}", flush=True)
        driver.quit()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
