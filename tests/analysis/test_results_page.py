"""The documentation lists the columns that the tables have."""

from __future__ import annotations

import pytest
from write_results_docs import PAGES, with_columns


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_lists_every_column(page):
    text = page.read_text(encoding="utf-8")
    assert with_columns(text, PAGES[page]) == text, "run `python tests/write_results_docs.py`"
