"""The closing numbers of a run: what was measured, as summary.json holds it."""

from collections.abc import Mapping
from typing import Any

from ..evaluation import Result


def of_results(found: Mapping[str, Result]) -> dict[str, Any]:
    """The numbers of summary.json, under names that scripts may rely on.

    Args:
        found: results by the name of the evaluation.

    Returns:
        Short names for what every run of a kind has, and everything under `evaluations`.
    """
    summary: dict[str, Any] = {}
    if "knn" in found:
        knn = found["knn"]
        summary |= {
            "knn_trained": knn.value("top1"),
            "knn_split": knn.split,
            "knn_bank": knn.protocol["bank_images"],
        }
    if "baselines" in found:
        summary |= {
            "knn_untrained": found["baselines"].value("untrained_top1"),
            "knn_raw_pixels": found["baselines"].value("raw_pixels_top1"),
        }
    if "retrieval" in found:
        retrieval = found["retrieval"]
        summary |= {row.name: row.value for row in retrieval.rows} | {
            "retrieval_split": retrieval.split,
            "retrieval_chance": {row.name: row.chance for row in retrieval.rows},
        }
    if "zero_shot" in found:
        zero_shot = found["zero_shot"]
        summary |= {
            "zero_shot_top1": zero_shot.value("top1"),
            "zero_shot_top5": zero_shot.value("top5"),
            "zero_shot_split": zero_shot.split,
            "zero_shot_classes": zero_shot.protocol["classes"],
            "zero_shot_chance": zero_shot.protocol["chance"],
        }
    summary["evaluations"] = {name: result.to_json() for name, result in found.items()}
    return summary
