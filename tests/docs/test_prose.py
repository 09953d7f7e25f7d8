"""Sentences of the documentation stay short, and what measures them measures what it says."""

import pytest

from tests.docs.prose import Page, count, pages, sentences

MEAN_OF_ALL, MEAN_OF_A_PAGE, LONGEST = 15.5, 17, 25
PAGES = pages()


def test_the_mean_over_all_pages_is_small():
    every = Page("all", tuple(text for page in PAGES for text in page.sentences))
    assert len(PAGES) > 15 and len(every.sentences) > 500  # it found the pages
    assert every.words <= MEAN_OF_ALL


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_page_and_no_sentence_is_long(page):
    assert page.words <= MEAN_OF_A_PAGE
    assert not page.over(LONGEST)


def test_a_page_by_hand():
    page = """# A heading is no sentence

One two three. Four (Smith et al. 2020) six seven? *Eight* nine,
ten: eleven.

| a table | is none |
|---|---|

- An item without a full stop
- Another, with `inline code. of several words` as one word.

```
code is none. At all.
```

![a picture](is.png)
A [link of words](to/some.file.md) counts as words.

    indented code is none
"""
    found = sentences(page)
    assert [count(text) for text in found] == [3, 7, 4, 6, 6, 7]
    assert [text.count(",") for text in found] == [0, 0, 1, 0, 1, 0]
