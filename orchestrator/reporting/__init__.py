"""``report.html``: what was found, shown on one page that opens without a network."""

from orchestrator.reporting.page import write_report

__all__ = ["write_report"]
