"""Let the reader's choice on the site, and not the system's alone, decide between light and dark figures.

Pages have <picture>, which GitHub shows as well; Material switches pictures whose address ends in #only-light and
#only-dark.
"""

from __future__ import annotations

import re

PICTURE = re.compile(
    r'<picture>\n  <source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\n'
    r'  <img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)"[^>]*>\n</picture>'
)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each <picture> by its two pictures."""
    return PICTURE.sub(r"![\g<alt>](\g<light>#only-light)\n![\g<alt>](\g<dark>#only-dark)", markdown)
