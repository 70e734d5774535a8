"""The readable course: every link leads somewhere, every picture has words, and nothing is asked of another host."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from course_lib.staff import ledger, sources
from course_lib.staff import site as site_tool

sphinx = pytest.importorskip("sphinx", reason="the site's packages are not installed: pip install -e '.[site]'")
pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
KINDS = {
    "landing": "index.html",
    "lecture": "lectures/01_convolution_arithmetic.html",
    "lab": "labs/01_convolution_arithmetic/convolution_arithmetic.html",
    "guide": "guides/students.html",
    "coverage": "coverage.html",
    "glossary": "glossary.html",
    "bibliography": "bibliography.html",
    "search": "search.html",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    return site_tool.build_site(tmp_path_factory.mktemp("site") / "html", say=lambda _: None)


class Page(HTMLParser):
    """What the checks ask of a page: links, identifiers, images, headings, and what it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids, self.without_alt, self.headings, self.loaded = [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        has = dict(attributes)
        if "id" in has:
            self.ids.append(has["id"])
        if tag == "a" and has.get("href"):
            self.links.append(has["href"])
        if tag == "img":
            self.loaded.append(has.get("src", ""))
            if not (has.get("alt") or "").strip():
                self.without_alt.append((has.get("src") or "")[:60])
        if tag == "script" and has.get("src"):
            self.loaded.append(has["src"])
        if tag == "link" and has.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(has.get("href", ""))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def parsed(pages) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(pages.rglob("*.html"))}


def test_there_is_a_page_for_every_lecture_lab_and_guide(pages):
    for topic in sources.lectures():
        assert (pages / "lectures" / f"{topic}.html").is_file()
    for topic in sources.topics():
        assert (pages / "labs" / topic / f"{sources.slug(topic)}.html").is_file()
    for guide in ("students", "instructors", "readers", "authors"):
        assert (pages / "guides" / f"{guide}.html").is_file()


def test_every_link_within_the_site_leads_to_a_page_and_a_place(pages, parsed):
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(pages)}: {link}")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].ids:
                broken.append(f"{path.relative_to(pages)}: {link} has no such place")
    assert not broken, "\n".join(broken[:20])


def test_links_to_other_hosts_are_links_and_nothing_is_loaded_from_them(parsed):
    foreign = [(path.name, source[:80]) for path, page in parsed.items() for source in page.loaded if re.match(r"(https?:)?//", source)]
    assert not foreign


def test_every_image_has_words(pages, parsed):
    assert not [(str(path.relative_to(pages)), page.without_alt) for path, page in parsed.items() if page.without_alt]


def test_headings_go_down_one_level_at_a_time(pages, parsed):
    for path, page in parsed.items():
        if path.name not in ("genindex.html", "search.html"):
            assert page.headings[0] == 1 and page.headings.count(1) == 1, (path, page.headings)
            steps = [b - a for a, b in zip(page.headings, page.headings[1:])]
            assert max(steps, default=0) <= 1, (path.relative_to(pages), page.headings)


def test_identifiers_are_unique(pages, parsed):
    for path, page in parsed.items():
        twice = {name for name in page.ids if page.ids.count(name) > 1}
        assert not twice, (path.relative_to(pages), twice)


def test_pages_are_valid_html(pages, parsed):
    html5lib = pytest.importorskip("html5lib")
    for path in parsed:
        parser = html5lib.HTMLParser()
        parser.parse(path.read_text(encoding="utf-8"))
        assert not parser.errors, (path.relative_to(pages), parser.errors[:3])


def test_a_lab_page_folds_its_solutions_and_shows_the_students_cell(pages):
    text = (pages / KINDS["lab"]).read_text(encoding="utf-8")
    exercises = [cell for cell in sources.read_cells(sources.topic_path("01_convolution_arithmetic")) if cell.kind == "exercise"]
    assert text.count("<summary>Show a solution</summary>") == len(exercises)
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert outside.count("YOUR CODE HERE") == len(exercises)
    assert "### BEGIN SOLUTION" not in outside and "MODEL ANSWER" not in outside.upper()


def test_the_map_links_what_is_there_and_says_what_is_not(pages, parsed):
    book = ledger.load()
    text = (pages / "index.html").read_text(encoding="utf-8")
    for topic in book.topics:
        linked = f'href="lectures/{topic.topic}.html"' in text
        assert linked == (topic.topic in sources.lectures()), topic.topic
        assert topic.title.replace("&", "&amp;") in text


def test_a_broken_link_stops_the_build(tmp_path):
    root = tmp_path / "course"
    shutil.copytree(site_tool.REPO / "site", root / "site", ignore=shutil.ignore_patterns("_build"))
    for folder in ("lectures", "labs", "solutions"):
        (root / folder).mkdir()
    (root / "site" / "glossary.md").write_text("# Glossary\n\n[nowhere](no_such_page.md)\n", encoding="utf-8")
    with pytest.raises(site_tool.SiteError, match="no_such_page"):
        site_tool.build_site(tmp_path / "html", root=root, say=lambda _: None)


def test_every_source_of_a_lecture_is_in_the_bibliography():
    listed = (site_tool.REPO / "site" / "references.bib").read_text(encoding="utf-8")
    for topic in sources.lectures():
        first = sources.read_cells(sources.lecture_path(topic))[0].source
        for link in re.findall(r"\]\((https?://[^\s]+?)\)(?:[\s,.;:]|$)", first.partition("**Sources**")[2]):
            assert f"{{{link}}}" in listed, f"{topic}: {link} is not in site/references.bib"


# In a browser -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser, pages: Path, kind: str, width: int = 1280, scheme: str = "light"):
    """A page from file://, settled; and the list to which console errors and requests to elsewhere are added."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
    tab.goto((pages / KINDS[kind]).as_uri())
    tab.wait_for_load_state("networkidle")
    if tab.query_selector(".math"):
        tab.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        tab.evaluate("MathJax.startup.promise.then(() => null)")  # waits until all formulas are set
    return tab, complaints


@pytest.mark.parametrize("kind", KINDS)
def test_pages_read_well_at_desk_and_on_a_phone(browser, pages, kind):
    for width in (1280, 390):
        tab, complaints = opened(browser, pages, kind, width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"the page is wider than {width} pixels"
        assert tab.evaluate("document.querySelectorAll('mjx-merror, [data-mjx-error]').length") == 0
        left = tab.evaluate("[...document.querySelectorAll('article p, article li')].map(e => e.innerText).filter(t => /\\$\\$|\\\\\\(|\\\\text/.test(t))")
        assert left == [], "formulas that were not set"
        assert not complaints
        tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_accessible(browser, pages, kind, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab, _ = opened(browser, pages, kind, scheme=scheme)
    what = ["wcag2a", "wcag2aa"] if scheme == "light" else {"type": "rule", "values": ["color-contrast"]}
    tab.evaluate("document.querySelectorAll('mjx-container').forEach(e => e.remove())")  # thousands of paths, all of one colour
    answer = axe.Axe().run(tab, options={"runOnly": what, "resultTypes": ["violations"]}).response
    found = [(rule["id"], rule["nodes"][0]["html"][:120]) for rule in answer["violations"]]
    assert not found
    tab.close()


def test_search_finds_a_word_without_a_server(browser, pages):
    tab, complaints = opened(browser, pages, "search")
    tab.goto((pages / "search.html").as_uri() + "?q=checkerboard")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    assert any("02_transposed_convolution" in (link.get_attribute("href") or "") for link in tab.query_selector_all("#search-results li a"))
    assert not complaints
