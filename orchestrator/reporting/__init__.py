"""``report.html``: what was found, shown on one page that opens without a network."""

from orchestrator.reporting.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
