"""Find everything in a records file that would make training fail, go wrong in silence, or measure the wrong thing.

`passes` reads records (by `texts`, `boxes`, `tokens`), `scan` and `inspect` read pictures, `pictures` joins the two and
`report` says it; `fix` and `mend` write a mended file.

report = check_records("records.json", "images", cache_dir="runs/cache")
if not report.ok: print(report_text(report))
"""

from data_prep.check.kinds import Severity
from data_prep.check.report import Finding, Report, report_text
from data_prep.check.run import check_records

__all__ = ["Finding", "Report", "Severity", "check_records", "report_text"]
