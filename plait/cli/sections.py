"""A settings file's sections, and whose keyword parameters their keys are.

Never a command's name: cyclopts drops such a section without a word.
"""

from plait.cli.data.prepare import prepare
from plait.cli.settings_file import Sections
from plait.cli.verb_settings import VerbModelSettings
from plait.evaluation.settings import Optim, Protocol

SECTIONS: Sections = {
    "dataset": prepare,
    "model": VerbModelSettings,
    "optim": Optim,
    "protocol": Protocol,
}
