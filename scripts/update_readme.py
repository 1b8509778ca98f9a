#!/usr/bin/env python3
"""Put the published table of 00_baseline's word problems into README.md.

Run after `fastdllm aggregate`, before committing new artifacts: scripts/update_readme.py
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- table: begin (scripts/update_readme.py) -->\n"
END = "<!-- table: end -->"


def main() -> None:
    """Replace what stands between the two markers."""
    table = (ROOT / "artifacts" / "00_baseline" / "table.md").read_text(encoding="utf-8")
    section = table.partition("## word_problems\n\n")[2].partition("\n## ")[0]
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}{section}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
