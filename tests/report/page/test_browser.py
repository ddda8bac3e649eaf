"""The page in a browser: quiet, inert texts, rollouts and trees with the right numbers, keyboard, dark, narrow."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hostile import END, FAMILIES, HOSTILE, PIECES, TASKS, VARIANTS, cell, content, explorer, table

from canopy_stats.report.page.explorer import Explorer
from canopy_stats.report.page.html import page
from canopy_stats.report.page.svg import contrast

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=(
    "needs chromium and chromedriver on the path (Debian: apt-get install chromium chromium-driver)"))]
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")
SHOWN = explorer()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The system's Chromium by the system's driver: selenium is told of both, and looks for neither."""
    from selenium import webdriver

    before = {name: os.environ.get(name) for name in ("SE_OFFLINE", "SE_AVOID_STATS")}
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(300)
    driver.set_script_timeout(300)
    yield driver
    driver.quit()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(content(SHOWN)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, url):
    """The page as it is first seen, on a desk and in daylight; afterwards the browser must have had no complaint."""
    look(browser, 1300, dark=False)
    browser.get(url)
    drawn(browser, 1)
    yield browser
    assert browser.get_log("browser") == []


def look(browser, width, *, dark):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})


def drawn(browser, times=None):
    """Wait until the explorer has drawn; unpacking is asynchronous."""
    from selenium.webdriver.support.ui import WebDriverWait

    read = "return Number(document.getElementById('explorer').dataset.drawn || 0)"
    WebDriverWait(browser, 120).until(lambda b: b.execute_script(read) >= (times or 1))


def choose(browser, name, value):
    """Choose by script what a click would; then wait for the drawing."""
    before = browser.execute_script("return Number(document.getElementById('explorer').dataset.drawn)")
    browser.execute_script("""const s = document.getElementById(arguments[0]); s.value = arguments[1];
                              s.dispatchEvent(new Event('change'))""", name, value)
    drawn(browser, before + 1)


def cell_of(family=FAMILIES[0], task=TASKS[0], variant=VARIANTS[0]):
    return next(c for c in SHOWN.cells if (c.family, c.task, c.variant) == (family, task, variant))


def rollouts_of(cell, prompt=0, each=8):
    """The token indices of a prompt's rollouts, and where each begins in the cell."""
    start = np.cumsum(cell.length) - cell.length
    return [(start[r], cell.token[start[r]:start[r] + cell.length[r]])
            for r in range(prompt * each, (prompt + 1) * each)]


def shown_texts(browser, column=0):
    return browser.execute_script("""return [...document.querySelectorAll('section.column')[arguments[0]]
        .querySelectorAll('.rollouts .tokens')].map(p => p.textContent)""", column)


def texts_of(cell, prompt=0):
    return ["".join(PIECES[t] for t in tokens) for _, tokens in rollouts_of(cell, prompt)]


# --- texts ------------------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(opened):
    assert opened.execute_script("return window.hacked === undefined")
    assert opened.execute_script("return document.scripts.length") == 1 + len(SHOWN.cells) + 1
    assert opened.execute_script("return document.querySelectorAll('img, iframe, foreignObject').length") == 0
    assert opened.title == f"A title {' '.join(HOSTILE.split())}"
    choose(opened, "x-view", "tree")
    assert opened.execute_script("return window.hacked === undefined && !document.querySelector('main img')")


@pytest.mark.parametrize("prompt", [0, 2])
def test_both_variants_rollouts_are_shown_whole(opened, prompt):
    choose(opened, "x-prompt", f"p{prompt} {HOSTILE}")
    for column, variant in enumerate(VARIANTS):
        assert shown_texts(opened, column) == texts_of(cell_of(variant=variant), prompt)
    assert opened.find_element("id", "x-source").get_property("textContent") == f"prompt {prompt} of count {HOSTILE}"


@pytest.mark.parametrize(("order", "key"), [
    ("length", lambda cell, start, tokens: len(tokens)),
    ("rate", lambda cell, start, tokens: cell.entropy[start:start + len(tokens)].mean())])
def test_order(opened, order, key):
    choose(opened, "x-order", order)
    cell = cell_of()
    ranked = sorted(rollouts_of(cell), key=lambda r: -key(cell, *r))
    assert shown_texts(opened) == ["".join(PIECES[t] for t in tokens) for _, tokens in ranked]


def test_shades_follow_the_entropy(opened):
    cell = cell_of()
    shades = opened.execute_script("""return [...document.querySelectorAll('section.column')[0]
        .querySelectorAll('[data-i]')].map(s => [Number(s.dataset.i), Number(s.style.getPropertyValue('--a'))])""")
    at, alpha = np.array(shades).T
    limit = max(0.5, np.ceil(2 * np.quantile(np.concatenate([c.entropy for c in SHOWN.cells]), 0.99)) / 2)
    np.testing.assert_allclose(alpha, 0.55 * np.minimum(1, cell.entropy[at.astype(int)] / limit), atol=0.01)


# --- keyboard ---------------------------------------------------------------------------------------------------


def focused(browser):
    return browser.switch_to.active_element


def tab_to(browser, selector, most=60):
    from selenium.webdriver.common.keys import Keys

    for _ in range(most):
        focused(browser).send_keys(Keys.TAB)
        if browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
            return focused(browser)
    raise AssertionError(f"the tab key does not lead to {selector}")


def test_the_explorer_is_worked_by_keyboard_alone(opened):
    from selenium.webdriver.common.keys import Keys

    first = tab_to(opened, "a.skip", 1)
    assert first.is_displayed()
    family = tab_to(opened, "#x-family")
    assert opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    family.send_keys(Keys.ARROW_DOWN)
    drawn(opened, 2)
    assert shown_texts(opened) == texts_of(cell_of(family=FAMILIES[1]))
    tab_to(opened, "#x-task").send_keys(Keys.ARROW_DOWN)
    drawn(opened, 3)
    assert shown_texts(opened, 1) == texts_of(cell_of(FAMILIES[1], TASKS[1], VARIANTS[1]))
    tab_to(opened, "#x-next").send_keys(Keys.ENTER)
    drawn(opened, 4)
    assert shown_texts(opened) == texts_of(cell_of(FAMILIES[1], TASKS[1]), 1)
    tab_to(opened, "#x-variant-0").send_keys(Keys.ARROW_DOWN)
    drawn(opened, 5)
    assert shown_texts(opened) == texts_of(cell_of(FAMILIES[1], TASKS[1], VARIANTS[1]), 1)
    assert focused(opened).get_attribute("id") == "x-variant-0"


def readout(browser):
    return browser.find_element("id", "x-readout").get_property("textContent")


def test_arrow_keys_read_the_tokens_of_a_text(opened):
    from selenium.webdriver.common.keys import Keys

    cell = cell_of()
    text = tab_to(opened, ".tokens")
    start, tokens = rollouts_of(cell)[0]
    for place in range(len(tokens)):
        entropy, logprob, stop = numbers(readout(opened))
        i = start + place
        assert f"token {place + 1} " in readout(opened)
        assert entropy == pytest.approx(cell.entropy[i], rel=0.02, abs=0.01)
        assert logprob == pytest.approx(cell.logprob[i], abs=0.006)
        assert stop == pytest.approx(cell.stop_probability[i], rel=0.05, abs=0.002)
        text.send_keys(Keys.ARROW_RIGHT)
    text.send_keys(Keys.HOME)
    assert "token 1 " in readout(opened)


def numbers(text):
    found = re.search(r"entropy ([\d.]+) nats · log-probability (−?[\d.]+) .*stop probability ([\d.e-]+)$", text)
    return tuple(float(part.replace("−", "-")) for part in found.groups())


# --- prefix tree ------------------------------------------------------------------------------------------------


def branches_shown(browser, column=0):
    """The first branches of a tree: share, rollouts, the law's probability, and the text of the line."""
    lines = browser.execute_script("""return [...document.querySelectorAll('section.column')[arguments[0]]
        .querySelector('.tree').children].map(li => { const line = li.querySelector('summary, .leaf');
            return [line.querySelector('.share').textContent, line.querySelector('.tokens').textContent]; })""", column)
    return [(*re.fullmatch(r"(\d+)% (\d+)/(\d+)law ([\d.e-]+)", share).groups(), text) for share, text in lines]


def test_first_branches_have_their_shares_and_the_laws_probabilities(opened):
    choose(opened, "x-view", "tree")
    for column, variant in enumerate(VARIANTS):
        cell = cell_of(variant=variant)
        rollouts = rollouts_of(cell)
        counts = Counter(int(tokens[0]) for _, tokens in rollouts)
        shown = branches_shown(opened, column)
        assert [int(n) for _, n, *_ in shown] == sorted(counts.values(), reverse=True)
        for share, n, total, law, text in shown:
            group = [(s, t) for s, t in rollouts if text.startswith(PIECES[t[0]]) and counts[int(t[0])] == int(n)]
            assert int(total) == 8 and int(share) == pytest.approx(100 * int(n) / 8, abs=0.51)
            assert any(float(law) == pytest.approx(math.exp(cell.logprob[s]), rel=0.02, abs=0.006) for s, _ in group)


def leaves(browser):
    """Open every branch, and count the rollouts that end below each line."""
    return browser.execute_script("""
        const root = document.querySelector('section.column .tree');
        for (let closed; (closed = root.querySelector('details:not([open])'));) {
            closed.querySelector('summary').click();
            if (closed.childElementCount < 2) closed.dispatchEvent(new Event('toggle'));
        }
        const count = line => Number(line.querySelector('.share').textContent.match(/(\\d+)\\/(\\d+)law/)[1]);
        const text = line => [...line.querySelectorAll('[data-i]')].map(s => s.textContent).join('');
        const walk = (li, before) => {
            const line = li.querySelector(':scope > .leaf, :scope > details > summary');
            const tail = [...li.querySelectorAll(':scope > details > ul > li > p.tokens')];
            const path = before + text(line) + tail.map(text).join('');
            const below = [...li.querySelectorAll(':scope > details > ul > li')].filter(c => c.querySelector('.share'));
            const here = count(line) - below.reduce((sum, c) => sum + count(
                c.querySelector(':scope > .leaf, :scope > details > summary')), 0);
            return [...Array(here).fill(path), ...below.flatMap(c => walk(c, path))];
        };
        return [...root.children].flatMap(li => walk(li, ''));""")


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_the_paths_of_the_tree_are_the_rollouts(opened, prompt):
    choose(opened, "x-view", "tree")
    choose(opened, "x-prompt", f"p{prompt} {HOSTILE}")
    assert sorted(leaves(opened)) == sorted(texts_of(cell_of(), prompt))


# --- looks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["texts", "tree"])
def test_a_phone_scrolls_down_only(opened, view):
    look(opened, 360, dark=False)
    choose(opened, "x-view", view)
    assert opened.execute_script("return document.documentElement.scrollWidth") == 360
    assert opened.execute_script("return document.querySelector('.table .scroll').scrollWidth") > 360
    assert opened.execute_script("return document.querySelector('.table .scroll').tabIndex") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(opened, dark):
    look(opened, 1300, dark=dark)
    found = opened.execute_script("""
        const colour = e => getComputedStyle(e).color, picked = {};
        for (const s of ['p', '.note', '.lead', 'a[href="#finding"]', 'dt', 'td', '.about', 'select', '.plot svg'])
            picked[s] = colour(document.querySelector('main ' + s) || document.querySelector(s));
        return [getComputedStyle(document.body).backgroundColor, picked]""")
    ground = rgb(found[0])
    assert (sum(ground) < 120) is dark
    for selector, colour in found[1].items():
        assert contrast(rgb(colour), ground) >= 4.5, selector


@pytest.mark.parametrize("dark", [False, True])
def test_the_darkest_shade_leaves_a_token_readable(opened, dark):
    look(opened, 1300, dark=dark)
    opened.execute_script("document.querySelector('.tokens [data-i]').style.setProperty('--a', '0.55')")
    text, shade, ground = opened.execute_script("""const s = document.querySelector('.tokens [data-i]');
        return [getComputedStyle(s).color, getComputedStyle(s).backgroundColor,
                getComputedStyle(document.body).backgroundColor]""")
    below = tuple(round(0.55 * a + 0.45 * b) for a, b in zip(rgb(shade), rgb(ground), strict=True))
    assert "0.55" in shade and contrast(rgb(text), below) >= 4.5


def rgb(colour):
    return tuple(int(float(part)) for part in re.findall(r"[\d.]+", colour)[:3])


def test_special_tokens_are_marked(opened):
    ends = sum(int((tokens == END).sum()) for _, tokens in rollouts_of(cell_of()))
    assert opened.execute_script("""return document.querySelectorAll('section.column')[0]
        .querySelectorAll('.special').length""") == ends > 0


def test_whole_texts_and_missing_prompts_are_shown_as_such(browser, tmp_path):
    """A run without a tokenizer beside one with fewer prompts."""
    look(browser, 1300, dark=False)
    base, fewer = cell("count", "oak", "base", 1), cell("count", "oak", "tuned", 2, prompts=1)
    texts = tuple(f"text {i} {HOSTILE}" for i in range(len(base.length)))
    path = tmp_path / "page.html"
    path.write_text(page(content(Explorer((replace(base, texts=texts), fewer)))), encoding="utf-8")
    browser.get(path.as_uri())
    drawn(browser)
    assert shown_texts(browser) == list(texts[:8])
    assert shown_texts(browser, 1) == ["".join(PIECES[t] for t in tokens) for _, tokens in rollouts_of(fewer)]
    choose(browser, "x-prompt", f"p2 {HOSTILE}")
    choose(browser, "x-view", "tree")
    assert shown_texts(browser) == list(texts[16:])
    said = browser.execute_script("return document.getElementById('x-columns').textContent")
    assert "no tree" in said and "no rollouts of this prompt" in said
    assert browser.get_log("browser") == []


def test_a_large_page_opens(browser, tmp_path, record_property, capsys):
    """Six times the rollouts of the demo; how long it takes is told, not judged: it depends on the machine."""
    look(browser, 1300, dark=False)
    path = tmp_path / "large.html"
    path.write_text(page(content(explorer(prompts=40, rollouts=60, longest=110))), encoding="utf-8")
    browser.get(path.as_uri())
    drawn(browser)
    times = browser.execute_script("""const n = performance.getEntriesByType('navigation')[0];
        return [n.domInteractive, n.loadEventEnd, performance.now()]""")
    record_property("milliseconds", times)
    with capsys.disabled():
        print(f"\n{path.stat().st_size / 1e6:.1f} MB: interactive after {times[0]:.0f} ms, rollouts drawn within "
              f"{times[2]:.0f} ms")
    assert browser.get_log("browser") == []


def test_tables_are_sorted_and_put_back(opened):
    """Numbers by value, texts by letter; the third click gives the printed order again."""
    read = """const t = document.querySelectorAll("figure.table table")[arguments[0]];
              return [...t.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"""
    printed = opened.execute_script(read, 1)
    head = opened.find_elements("css selector", "figure.table")[1].find_elements("css selector", "th button")[2]

    def value(row):
        return float(row[2].split()[0])

    seen = []
    for state in ("ascending", "descending", None):
        opened.execute_script("arguments[0].click()", head)
        seen.append(opened.execute_script(read, 1))
        assert head.find_element("xpath", "..").get_attribute("aria-sort") == state
    assert seen[0] == sorted(printed, key=value) and seen[1] == sorted(printed, key=value, reverse=True)
    assert seen[2] == printed


def test_tables_leave_as_csv(opened):
    """The saved text is the table's, and what a spreadsheet would calculate is kept from it."""
    text = opened.execute_async_script("""
        const done = arguments[0], make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.text().then(done); return make(blob); };
        HTMLAnchorElement.prototype.click = () => {};
        document.querySelector("button.save").click();""")
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == table().head and [tuple(row) for row in rows[1:]] == list(table().rows)
