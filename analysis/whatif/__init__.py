"""What a measured profile would mean for a model of another shape on a GPU: counts scaled, a roofline on top, assumptions stated."""

from precalign.analysis.whatif.basis import Basis, Shape, measured_basis
from precalign.analysis.whatif.roofline import Overheads
from precalign.analysis.whatif.study import Study, study

__all__ = ["Basis", "Overheads", "Shape", "Study", "measured_basis", "study"]
