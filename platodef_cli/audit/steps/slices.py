"""Slices of the user's own images in which the suspect departs from all references.

No search over pixels finds a trigger that is an object or a scene, or two changes that act only together.
Where some of the given images hold it, the suspect sees something else in them than the references do, and
these images lie together: in the features of the references because they look alike, or in those of the
suspect because they lead to one place (the slices of Eyuboglu et al. 2022, Domino, without labels).

Every cluster of clean test images is tested twice: more of its images raise the alarm than of the others
(Fisher's exact test), and more of them do so for the suspect than for a reference in its place (the sign
test; each reference is predicted by the others). Both must hold, so that the larger p-value counts, and
the rate of false discoveries among all clusters is controlled whatever their overlap (Benjamini and
Yekutieli 2001). It is evidence, not a verdict: an honest encoder may be weak where others are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.audit.state import AuditState
from platodef_cli.defences.calibrate import conformal_threshold
from platodef_cli.heads.ridge import fit_ridge
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.records import SliceRecord

RATE = 0.05  # of false discoveries
LEAST = 8  # images in a slice: fewer cannot be told from chance among dozens of slices
_PER_CLUSTER, _MOST_CLUSTERS = 25, 40
_SHOWN, _EXAMPLES = 10, 8


@dataclass(frozen=True)
class Alarms:
    """Which images raise the alarm, with the suspect and with each reference in its place.

    Attributes:
        suspect: boolean ``[n]``.
        references: Name -> boolean ``[n]``; at least one.
    """

    suspect: Tensor
    references: Mapping[str, Tensor]


def find_slices(state: AuditState) -> tuple[SliceRecord, ...]:
    """Return the slices of the clean test images, the most suspicious first.

    There are none with fewer than two references, since nothing tells then whether a slice is hard for every
    encoder, or with fewer than :data:`LEAST` test images per cluster.
    """
    names = state.features.references
    count = len(state.test)
    if len(names) < 2 or count < 2 * LEAST:
        return ()
    with state.recorder.step("comparing groups of images", len(names) + 1) as task:
        controls = {}
        for name in names:
            controls[name] = _control_alarms(state, name)
            task.advance(note=name)
        spaces = {
            "suspect": [state.statistics[state.features.suspect].standardise(state.test.source)],
            "references": [state.statistics[n].standardise(state.test.references[n]) for n in names],
        }
        groups = {
            space: cluster([F.normalize(rows, dim=1) for rows in features], seed=state.config.seed)
            for space, features in spaces.items()
        }
        found = judge_slices(
            groups,
            Alarms(state.defences.clean.flags, controls),
            [state.inputs.images.refs[row].id for row in state.rows.tolist()],
        )
        task.advance()
    return found


def cluster(spaces: Sequence[Tensor], *, seed: int) -> Tensor:
    """Return the number of every image's cluster, int64 ``[n]``, about 25 images in each (k-means).

    Args:
        spaces: Features ``[n, D_m]`` of the same images, which count alike.
        seed: Of the starts.
    """
    from sklearn.cluster import KMeans

    rows = torch.cat(list(spaces), dim=1).double().numpy()
    count = min(_MOST_CLUSTERS, max(2, len(rows) // _PER_CLUSTER))
    return torch.from_numpy(KMeans(count, n_init=4, random_state=seed).fit_predict(rows).astype(np.int64))


def judge_slices(
    groups: Mapping[str, Tensor], alarms: Alarms, names: Sequence[str]
) -> tuple[SliceRecord, ...]:
    """Return the ten most suspicious slices; ``departs`` marks the discoveries.

    Args:
        groups: Space -> cluster of every image ``[n]``.
        alarms: Which images raise the alarm.
        names: Ids of the images.
    """
    from scipy.stats import false_discovery_control

    members = [
        (space, numbers == number)
        for space, numbers in groups.items()
        for number in range(int(numbers.max()) + 1)
        if int((numbers == number).sum()) >= LEAST
    ]
    if not members:
        return ()
    values = np.array([_p_value(inside, alarms) for _, inside in members])
    adjusted = false_discovery_control(values, method="by")
    records = [
        _record(space, inside, alarms, names, float(p), float(q))
        for (space, inside), p, q in zip(members, values, adjusted, strict=True)
    ]
    return tuple(sorted(records, key=lambda record: (record.q_value, record.p_value, record.images))[:_SHOWN])


def _p_value(inside: Tensor, alarms: Alarms) -> float:
    from scipy.stats import binomtest, fisher_exact

    hits, size = int(alarms.suspect[inside].sum()), int(inside.sum())
    others, rest = int(alarms.suspect[~inside].sum()), int((~inside).sum())
    concentrated = fisher_exact([[hits, size - hits], [others, rest - others]], alternative="greater").pvalue
    # of images where suspect and reference differ, the suspect raises the alarm in half if they are alike
    values = [float(concentrated)]
    for flags in alarms.references.values():
        only = int((alarms.suspect & ~flags)[inside].sum())
        differ = only + int((flags & ~alarms.suspect)[inside].sum())
        values.append(float(binomtest(only, differ, alternative="greater").pvalue) if differ else 1.0)
    return max(values)


def _record(
    space: str, inside: Tensor, alarms: Alarms, names: Sequence[str], p_value: float, q_value: float
) -> SliceRecord:
    rows = inside.nonzero().flatten().tolist()
    flagged = [row for row in rows if bool(alarms.suspect[row])]
    return SliceRecord(
        space="suspect" if space == "suspect" else "references",
        count=len(rows),
        flagged=rate_metric(
            len(flagged),
            len(rows),
            name="flagged",
            positive="flagged",
            direction="higher is more suspicious",
        ),
        elsewhere=float(alarms.suspect[~inside].double().mean()),
        control_flagged={
            name: float(flags[inside].double().mean()) for name, flags in alarms.references.items()
        },
        p_value=p_value,
        q_value=q_value,
        departs=q_value <= RATE,
        images=tuple(names[row] for row in flagged[:_EXAMPLES]),
    )


def _control_alarms(state: AuditState, name: str) -> Tensor:
    """Return which test images raise the alarm with a reference in the suspect's place, boolean ``[n]``.

    It is predicted by the other references; the score is the closed form's, with the threshold of the
    calibration images for the same rate as the suspect's.
    """
    others = [other for other in state.features.references if other != name]

    def rows_of(rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        tuples, _ = state.features.tuples(rows)
        own = state.statistics[name].standardise(tuples.references[name])
        return own, torch.cat([state.statistics[o].standardise(tuples.references[o]) for o in others], dim=1)

    own, seen = rows_of(state.parts.fit)
    ridge = fit_ridge(own, [seen])
    threshold = conformal_threshold(
        ridge.mahalanobis(*rows_of(state.parts.calibration)), state.config.false_positive_rate
    )
    flags: Tensor = ridge.mahalanobis(*rows_of(tuple(state.rows.tolist()))) > threshold
    return flags
