"""Look for addresses that the files of this repository name and that are gone: a part of `make docs`.

Gone is what its own server says is not there; one that does not answer, or not to programs, may be there.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = r"https://[^\s<>()\[\]{}\"'`|\\]*[^\s<>()\[\]{}\"'`|\\.,:;]"
ALWAYS_THERE = "https://github.com"


def main() -> int:
    if status_of(ALWAYS_THERE) != 200:
        print(f"\n*** LINKS NOT FOLLOWED: {ALWAYS_THERE} does not answer. Nothing looked for dead ones. ***\n")
        return 0
    found = sorted(addresses())
    with ThreadPoolExecutor(8) as executor:
        statuses = list(executor.map(status_of, found))
    gone = [address for address, status in zip(found, statuses, strict=True) if status in (404, 410)]
    print(*(f"gone: {address}" for address in gone), f"{len(found)} addresses, {len(gone)} of them gone", sep="\n")
    return int(bool(gone))


def addresses() -> set[str]:
    """Every address in the pages, in the code, and in what describes the project."""
    inside = [ROOT / name for name in ("docs", "mcl_triton", "reference", "bench")]
    paths = [*ROOT.glob("*.*"), *(path for folder in inside for path in folder.rglob("*.*"))]
    texts = [path for path in paths if path.suffix in (".md", ".py", ".toml", ".yml", ".cff")]
    return {found[0] for path in texts for found in re.finditer(ADDRESS, path.read_text(encoding="utf-8"))}


def status_of(address: str) -> int | None:
    """The status that the server returns, None without an answer."""
    request = Request(address, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
