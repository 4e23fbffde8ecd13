"""Change what is stored of one image, the way an attack that ran again would."""

from __future__ import annotations

from ham_core.folder import TrialFolder
from ham_core.metrics import summarize


def miss_one_more(folder: TrialFolder, weights: str, attack: str) -> dict[str, float]:
    """One image that was classified correctly is not any more -> the evaluation's metrics before."""
    (record,) = (
        one for one in folder.evaluations() if (one["weights"], one["attack_name"]) == (weights, attack)
    )
    arrays = folder.predictions(record["fingerprint"])
    image = int((arrays["prediction"] == arrays["label"]).argmax())
    assert arrays["prediction"][image] == arrays["label"][image]
    arrays["prediction"][image] = (arrays["label"][image] + 1) % len(record["classes"])
    correct = arrays["prediction"] == arrays["label"]
    found = summarize(arrays["label"], correct, record["classes"])
    metrics = {f"{weights}/{attack}/{key}": value for key, value in found.items()}
    folder.save_evaluation(record["fingerprint"], {**record, "metrics": metrics}, arrays)
    return dict(record["metrics"])
