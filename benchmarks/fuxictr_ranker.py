"""One of FuxiCTR's rankers of long histories, trained and asked, run by the Python of FuxiCTR's environment.

python fuxictr_ranker.py MODEL DATA SETTINGS OUT   SETTINGS as JSON; DATA as rankers_beside_fuxictr.py writes it
"""

import json
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo import LongCTR
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

LABEL = "liked"


def features(data: Path, dim: int) -> FeatureMap:
    """An event is two categories; where it stands is no feature."""
    its = FeatureMap("rows", str(data))
    its.labels, its.group_id, its.default_emb_dim = [LABEL], "user_index", dim
    its.features = OrderedDict({name: {"type": "meta"} for name in ("user_index", "item_index", "seq_len")})
    for name, size in json.loads((data / "sizes.json").read_text()).items():
        its.features[name] = {
            "type": "categorical",
            "source": "item",
            "vocab_size": size,
            "padding_idx": 0,
            "embedding_dim": dim // 2,
        }
    its.num_fields = its.get_num_fields()
    return its


def model_of(name: str, feature_map: FeatureMap, settings: dict, folder: str):
    dim = settings["dim"]
    return getattr(LongCTR, name)(
        feature_map,
        model_id=name,
        gpu=-1,
        optimizer="adam",
        loss="binary_crossentropy",
        task="binary_classification",
        metrics=["AUC", "logloss"],
        monitor="AUC",
        monitor_mode="max",
        early_stop_patience=settings["epochs"],
        reduce_lr_on_plateau=False,
        model_root=folder,
        verbose=0,
        embedding_dim=dim // 2,
        attention_dim=dim,
        learning_rate=settings["learning_rate"],
        dnn_hidden_units=settings["dnn_hidden_units"],
        short_seq_len=settings["short"],
        topk=settings["top_k"],
        item_info_fields=2,
    )


def main() -> None:
    name, data, settings, out = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    seed_everything(settings["seed"])
    feature_map = features(data, settings["dim"])

    def rows(part: str, shuffle: bool) -> LongCTRDataLoader:
        return LongCTRDataLoader(
            feature_map,
            str(data / f"{part}.parquet"),
            str(data / "users.parquet"),
            str(data / "events.parquet"),
            batch_size=settings["batch_size"],
            shuffle=shuffle,
            num_workers=0,
            max_len=settings["max_len"],
        )

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows").mkdir()
        model = model_of(name, feature_map, settings, folder)
        taken_s, validated_s, validation_auc = 0.0, [0.0], [0.0]
        evaluate = model.evaluate

        def timed_evaluate(*args, **kwargs):
            start_s = time.process_time()
            found = evaluate(*args, **kwargs)
            validated_s[0] += time.process_time() - start_s
            validation_auc.append(found["AUC"])
            return found

        model.evaluate = timed_evaluate
        train, validation = rows("train", shuffle=True), rows("validation", shuffle=False)
        start_s = time.process_time()
        model.fit(train, epochs=settings["epochs"], validation_data=validation)
        taken_s = time.process_time() - start_s - validated_s[0]
        predicted_Q = model.predict(rows("test", shuffle=False))
    np.savez(
        out,
        predicted=predicted_Q,
        validation_auc=max(validation_auc),
        processor_s_per_epoch=taken_s / settings["epochs"],
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
