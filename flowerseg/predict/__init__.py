"""A folder of photos in, a folder of masks out, in bounded memory; bad photos stop nothing.

    OUT/masks/<path of the photo>.png      0 and 255, as large as the photo; b.jpg -> b.jpg.png
    OUT/overlays/…, OUT/cutouts/…, OUT/probabilities/…    likewise, where asked for
    OUT/results.csv                        a row for each photo, sorted by path
    OUT/run.json                           what ran: model, settings, versions, counts
    OUT/journal.sqlite, OUT/.lock          what is done, and who is at it

results.csv and run.json come last and vanish first: where they are, the run they tell of finished.
README.md beside this file says how it works.
"""

from flowerseg.predict.check import Checked, Finding, check_folder
from flowerseg.predict.folder import (
    FolderReport,
    Silent,
    Watcher,
    segment_folder,
    segment_listing,
)
from flowerseg.predict.lock import LOCK
from flowerseg.predict.results import RESULTS, RUN, Counts, Effort, PhotoResult, RunRecord
from flowerseg.predict.settings import Hands, PredictSettings, Save, batch_size, hands_of
from flowerseg.predict.stream import Segmented, stream

__all__ = [
    "LOCK",
    "RESULTS",
    "RUN",
    "Checked",
    "Counts",
    "Effort",
    "Finding",
    "FolderReport",
    "Hands",
    "PhotoResult",
    "PredictSettings",
    "RunRecord",
    "Save",
    "Segmented",
    "Silent",
    "Watcher",
    "batch_size",
    "check_folder",
    "hands_of",
    "segment_folder",
    "segment_listing",
    "stream",
]
