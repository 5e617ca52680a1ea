"""Four logs on which a model with counts is held against counting: a shop, short videos and two simulated worlds.

    python benchmarks/floors.py --data DIR --out runs/floors
    plait compare runs/floors/videos --layouts lac --seeds 2 --protocol.max-events 200 --out runs/floors/videos-lac

and likewise `films-like`; `shop-like` and `complete-journey` with `--protocol.no-filter-seen`, since users come back to
what they took. `videos` is KuaiRand's sample of impressions that were liked or hated; `DIR` holds it. The worlds differ
in what moves them: in `films-like` moods and the last item, in `shop-like` scenarios and popularity.
"""

from pathlib import Path

import cyclopts
from defaults import open_kuairand

from plait.data.simulator import World, simulate

WORLDS = {
    "films-like": World(num_users=2000, num_events=60, num_items=1500, mood=1.5, follow=1.5, seed=1),
    "shop-like": World(
        num_users=2000, num_events=60, num_items=600, popularity=1.1, scenario_choice=1.2, seed=2
    ),
}


def main(*, data: Path, out: Path) -> None:
    """Prepares what is not prepared yet."""
    dataset = open_kuairand(out, data)
    (out / "videos").unlink(missing_ok=True)
    (out / "videos").symlink_to(dataset.folder.name)
    for name, world in WORLDS.items():
        if not (out / name).exists():
            simulate(world, out / name, name=name)


if __name__ == "__main__":
    cyclopts.run(main)
