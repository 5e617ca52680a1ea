"""The studies, a file for each paper."""

from plait.studies.papers import attnmvp, genrank, lac
from plait.studies.study import Study

STUDIES: tuple[Study, ...] = (*lac.STUDIES, *attnmvp.STUDIES, *genrank.STUDIES)
