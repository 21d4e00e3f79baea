"""What is wrong with this machine, and what should I install next?

    report = examine("images")
    print(report.broken or report.to_json())

``alignseg doctor`` prints the same as a page.
"""

from alignseg_infer.doctor.examination import examine
from alignseg_infer.doctor.goals import Goal
from alignseg_infer.doctor.report import Report

__all__ = ["Goal", "Report", "examine"]
