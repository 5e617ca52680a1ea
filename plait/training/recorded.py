"""Which histories are kept beside a model that was trained."""

from pathlib import Path

from plait.data import Dataset
from plait.engine.agreement import users_to_check
from plait.engine.agreement_cases import fields_asked
from plait.engine.recorded import save_recorded
from plait.models.generative import GenerativeRecommender

NUM_ENDS = 4  # of those users, the shortest histories, and as many longest ones


def record_histories(
    model: GenerativeRecommender, dataset: Dataset, num_users: int, seed: int, folder: Path
) -> None:
    """Writes the histories of so many users beside a model: of those that `plait check` would ask about. None where
    none are wanted, or the model cannot be asked."""
    length_U = dataset.train_user_counts()
    if not num_users or not fields_asked(model) or not (length_U > 1).any():
        return
    user_U = users_to_check(length_U, model, seed, num_users, NUM_ENDS)
    save_recorded(model, dataset.histories(user_U), folder)
