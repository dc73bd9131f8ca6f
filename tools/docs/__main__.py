"""Writes the files that follow from the code: `python -m tools.docs`."""

from __future__ import annotations

from tools.docs.pages import ROOT, pages


def main() -> None:
    """Writes every file that is not up to date."""
    for name, content in pages().items():
        path = ROOT / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
