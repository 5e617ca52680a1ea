"""The studies, a file for each paper."""

from plait.papers import attnmvp, genrank, lac, lum
from plait.papers.study import Study

STUDIES: tuple[Study, ...] = (*lac.STUDIES, *attnmvp.STUDIES, *genrank.STUDIES, *lum.STUDIES)
