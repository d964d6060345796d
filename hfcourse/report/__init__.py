"""What a life came to: a table for the terminal, a figure, and one self-contained HTML file."""

from hfcourse.report.curves import write_figure
from hfcourse.report.html import write_report
from hfcourse.report.table import print_table

__all__ = ["print_table", "write_figure", "write_report"]
