"""A log of one's own, from a dataframe to recommendations, in a minute on a CPU.

    python examples/own_log.py

The log is made up: users have a favourite kind of film, watch it more often, and like it more often.
"""

import tempfile

import numpy as np
import polars as pl

import plait

KINDS, FILMS_PER_KIND, DAY_S = 4, 15, 86_400


def made_up_log(num_users: int = 300, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    user_E = np.repeat(np.arange(num_users), rng.integers(10, 30, num_users))
    day_E = rng.integers(0, 365, len(user_E))
    favourite_E = rng.integers(0, KINDS, num_users)[user_E]
    kind_E = np.where(rng.random(len(user_E)) < 0.7, favourite_E, rng.integers(0, KINDS, len(user_E)))
    chance_E = 0.1 + 0.8 * (kind_E == favourite_E)
    film_E = rng.integers(0, FILMS_PER_KIND, len(user_E))
    return pl.DataFrame(
        {
            "user_id": user_E,
            "film": [f"kind {kind}, film {film}" for kind, film in zip(kind_E, film_E, strict=True)],
            "time": day_E * DAY_S,
            "liked": (rng.random(len(user_E)) < chance_E).astype(np.int8),
        }
    ).sort("user_id", "time")


def main() -> None:
    log = made_up_log()
    with tempfile.TemporaryDirectory() as scratch:
        data = plait.prepare(
            log,
            user="user_id",
            item="film",
            time="time",
            actions={"liked": plait.Binary()},
            out=f"{scratch}/log",
        )
        print(data)
        protocol = plait.Protocol(select="ndcg@10=1,auc:liked=1", max_epochs=20)
        model = plait.fit(data, layout="lac", protocol=protocol)
        state = model.encode(log.filter(pl.col("user_id") == 7))
        print(log.filter(pl.col("user_id") == 7).tail(5))
        print(model.retrieve(state, k=5))
        print(model.score(state, ["kind 0, film 3", "kind 1, film 3", "kind 2, film 3", "kind 3, film 3"]))


if __name__ == "__main__":
    main()
