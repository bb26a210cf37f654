"""Celeb-DF v1 (Li et al., 2019), the first edition: 408 real videos, 795 fakes. Papers score it beside v2.

Licence: the form at https://github.com/yuezunli/celeb-deepfakeforensics/tree/master/Celeb-DF-v1 gives the download
link.
Layout, names, the test list with its inverted label, splits and counterparts are those of v2: see `celeb_df`. Its list
is shorter (100 videos in copies that others describe), so that the two editions must not be mixed in one folder.
video_id: `celeb_df_v1/<folder>/<stem>`.
Uncertain: v2 is said to extend v1, but not whether one file or one `idA` means the same in both. People are kept apart
here (`celeb_df_v1/idA`), so that no overlap with v2 is found: do not test on one edition what was trained on the other.
How the published counts fall on train and test is not told.
"""

from collections.abc import Mapping

from pipelines.datasets import celeb_df
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import Root

LAYOUT = """\
    List_of_testing_videos.txt
    Celeb-real/idA_NNNN.mp4
    YouTube-real/NNNNN.mp4
    Celeb-synthesis/idA_idB_NNNN.mp4                       each folder may have a videos/ level, or frames/NAME/*.png"""
NEEDS: tuple[str, ...] = ()

PUBLISHED = {("real", ""): 408, (celeb_df.FAKE_FOLDER, ""): 795}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk or in the list. Raise DatasetError."""
    return celeb_df.rows(roots["celeb_df_v1"])


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what the test list promises; of the owners' list no digest is known. Raise DatasetError."""
    return [celeb_df.test_list(roots["celeb_df_v1"], published=None)]
