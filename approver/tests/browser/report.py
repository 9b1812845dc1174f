"""The ledger's report as auditors open it: a file, on a desk, on a phone and on paper."""

import re
import subprocess

from inbox import WIDTHS, clean, fits
from run import call

# A4 at 96 dots an inch.
PAPER = (794, 1123)


def test_clean_at_both_widths_and_on_paper(world):
    for name, path in call("report").items():
        for width, (w, h) in {**WIDTHS, "paper": PAPER}.items():
            with world.page(w, h) as page:
                page.emulate_media(media="print" if width == "paper" else "screen")
                page.goto(f"file://{path}")
                what = f"report-{name}-{width}"
                page.screenshot(path=str(world.shots / f"{what}.png"), full_page=True)
                fits(page, what)
                clean(page, what)
                verdict = page.locator(".banner strong").bounding_box()
                assert verdict["y"] + verdict["height"] < h / 2, (what, "the verdict is at the top", verdict)
                headings = page.locator("h2").all_inner_texts()
                assert headings.index("Denials and overrides") < headings.index("Every decision"), headings
                if width != "paper":
                    # A row of a table says what it means on a phone, too.
                    row = page.locator("#exceptions ~ table tbody tr").first.inner_text()
                    assert re.search(r"2\d{3}-", row) and "customers.csv" in row, row
                    continue
                assert not page.locator("nav").is_visible()
                file = world.shots / f"{what}.pdf"
                page.pdf(path=str(file), prefer_css_page_size=True)
                text = subprocess.run(["pdftotext", "-layout", str(file), "-"], capture_output=True, text=True, check=True).stdout
                pages = text.rstrip("\f").split("\f")
                verified = "NOT verified" if name == "changed" else "Integrity verified"
                assert verified in pages[0], pages[0]
                assert "3 not recorded: the disk is full" in text
                # The head of a table stands on each page that it goes on.
                assert text.count("Decided by") > text.count("All decisions of this population"), text
