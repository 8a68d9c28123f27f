"""Reports: a recommendation or a search as one HTML page that needs no network."""

from fmjax.report.origin import Paths
from fmjax.report.page import chart_script
from fmjax.report.reports import recommendation_page, search_page, write_report

__all__ = ["Paths", "chart_script", "recommendation_page", "search_page", "write_report"]
