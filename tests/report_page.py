"""Reads a report as strictly as a parser can: balance, no address but its own, pictures whole."""

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

VOID_TAGS = {"meta", "img", "br", "input"}
ALLOWED_TAGS = VOID_TAGS | {
    *("html", "head", "title", "style", "script", "body", "header", "main", "section"),
    *("h1", "h2", "h3", "p", "div", "small", "b", "span", "bdi", "a", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "dl", "dt", "dd"),
    *("details", "summary"),
}
DATA = "data:image/jpeg;base64,"


class ReportPage(HTMLParser):
    """What is on a page; raises AssertionError where it is not as every report must be."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.links, self.pictures, self.images = [], [], [], [], []
        self.attributes, self.policy, self.rows, self.styles, self.scripts = [], "", [], [], []
        assert html.startswith("<!DOCTYPE html>\n")
        self.feed(html)
        self.close()
        assert not self.open
        self.check_addresses()

    def handle_starttag(self, tag, attributes):
        assert tag in ALLOWED_TAGS, tag
        if tag not in VOID_TAGS:
            self.open.append(tag)
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), names
        assert not [name for name in names if name.startswith("on")], names
        found = dict(attributes)
        self.attributes += attributes
        if tag == "img":
            assert found["alt"]
            self.images.append(found["alt"])
            self.pictures.append(picture(found["src"]))
            assert self.pictures[-1].size == (int(found["width"]), int(found["height"]))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag == "a":
            self.links.append(found["href"])
        if tag == "th":
            assert found["scope"] in ("row", "col")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            (self.styles if self.open[-1] == "style" else self.scripts).append(data)
            return
        self.texts.append(data)
        if self.rows and {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def check_addresses(self):
        """Nothing is fetched: styles name no address, links stay in the folder."""
        for style in self.styles:
            assert not re.search(r"url\(|@import|expression", style)
        for name, value in self.attributes:
            if name == "src":
                assert value.startswith(DATA)
            elif name == "href":
                assert value.startswith("./")
                assert ".." not in value.split("/")
                assert "\\" not in value
        assert "default-src 'none'" in self.policy
        assert re.findall(r"img-src ([^;]*)", self.policy) == ["data:"]

    def text(self):
        return "".join(self.texts)


def picture(uri):
    """The picture inside a `data:` address, decoded."""
    assert uri.startswith(DATA)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(DATA), validate=True)))
    image.load()
    return image
