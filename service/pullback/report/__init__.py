"""The report of a sweep: figures, image strips, and one HTML file that holds them."""

from pullback.report.document import write_report
from pullback.report.sections import Control

__all__ = ["Control", "write_report"]
