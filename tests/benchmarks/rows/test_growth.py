"""The page of the growth is made of the results alone."""

from __future__ import annotations

from pathlib import Path

import cv2
from results import Figure, write_results
from rows.growth import write_page


def test_page_and_picture_show_the_measured_figures(tmp_path: Path) -> None:
    figures = [
        Figure("growth.update_s.100km2", 0.2, "s", 25, (0.1, 0.3)),
        Figure("growth.update_s.10km2", 0.04, "s", 25, (0.02, 0.06)),
        Figure("growth.rss_mb.100km2", 512.3, "MB", 1),
        Figure("growth.rss_mb.10km2", 260.0, "MB", 1),
        Figure("growth.updates.160m", 6.5, "", 160, (6.0, 7.1)),
        Figure("growth.converged.160m", 99.4, "%", 160, (98.0, 100.0)),
        Figure("growth.updates.80m", None, "", 60),
        Figure("nd160.updates", 5.0),
    ]
    results = write_results("demo", figures, command="x", seed=1, directory=tmp_path)
    write_page(results, tmp_path / "docs" / "page.md", tmp_path / "docs" / "images" / "growth.png")
    page = (tmp_path / "docs" / "page.md").read_text()
    ten, hundred = "| 10 km² | 0.04 s | 0.02 – 0.06 | 260 MB |", "| 100 km² | 0.2 s | 0.1 – 0.3 | 512.3 MB |"
    assert page.index(ten) < page.index(hundred)
    assert "| 160 m | 6.5 | 6 – 7.1 | 99.4 % | 160 |" in page and "| 80 m" not in page
    assert "(images/growth.png)" in page
    image = cv2.imread(str(tmp_path / "docs" / "images" / "growth.png"))
    assert image.shape[1] > 1000 and image.std() > 5
