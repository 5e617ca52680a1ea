"""The verbs: a file for each theme, and here a line for each verb."""

from cyclopts import App

from plait.cli import answering, explaining, preparing, simulating, studying, training
from plait.cli.settings import Sections
from plait.evaluation.settings import Optim, Protocol
from plait.models.generative import ModelSettings

# A settings file's sections, and whose keyword parameters their keys are. Never a command's name: cyclopts drops such
# a section without a word.
SECTIONS: Sections = {
    "dataset": preparing.prepare,
    "model": ModelSettings,
    "optim": Optim,
    "protocol": Protocol,
}

app = App(
    name="plait",
    help="Generative recommendation where the item/action layout is one line of data.",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command(explaining.app)
app.command(preparing.app)
app.command(simulating.simulate)
app.command(training.train)
app.command(training.evaluate)
app.command(training.compare)
app.command(studying.study)
app.command(answering.recommend)
app.command(answering.score)
