"""Writes the pages of docs/ that follow from the code, and checks the site that is built of all pages.

`python -m tools.docs` writes the pages; `python -m tools.docs.links FOLDER` checks a built site.
"""
