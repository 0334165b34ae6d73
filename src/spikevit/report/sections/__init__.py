"""The sections of a report: each is a function from the runs that it shows to a piece of HTML.

Every section takes one run or several to compare, and says of each run what it lacks.
"""

from spikevit.report.sections.conversion import conversion
from spikevit.report.sections.cost import cost
from spikevit.report.sections.curves import curves
from spikevit.report.sections.head import head, title
from spikevit.report.sections.images import images

SECTIONS = {  # by identifier: the title and the function
    "overview": ("Overview", head),
    "curves": ("Curves", curves),
    "images": ("What it sees", images),
    "cost": ("What it costs", cost),
    "conversion": ("Conversion", conversion),
}

__all__ = ["SECTIONS", "conversion", "cost", "curves", "head", "images", "title"]
