"""docs/profiles.md says what there is."""

import re
from pathlib import Path

from shortlist.events.meters import Meters
from shortlist.profiles.layout import FORMAT

PAGE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()


def test_every_metric_is_in_the_page_and_no_other() -> None:
    served = set(re.findall(r"^# TYPE (\w+)", Meters().text(), re.MULTILINE))
    assert set(re.findall(r"^\| `(shortlist_events_\w+)", PAGE, re.MULTILINE)) == served


def test_the_page_describes_the_format_that_is_written() -> None:
    assert f"### Layout, format {FORMAT}\n" in PAGE
