"""The report of a sweep: figures, image strips, and one HTML file that holds them."""

from pullback.report.document import write_report

__all__ = ["write_report"]
