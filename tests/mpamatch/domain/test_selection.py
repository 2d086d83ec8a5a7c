from dataclasses import replace

import numpy as np
import pytest

from mpamatch.domain.selection import (
    Candidates,
    Caps,
    noise_beta,
    noisy_scores,
    quotas,
    shares_of_batch,
    spread_out,
)

NOTHING = np.empty((0, 8))
LOOSE = Caps(per_image=99, per_patient_share=1.0, duplicate_cosine=1.1)


def _candidates(count: int = 40, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    images = [f"image {i % 10}" for i in range(count)]
    return Candidates(points, rng.random(count), images, [f"patient {i % 4}" for i in range(count)])


@pytest.mark.method_line(42)
def test_the_first_picks_are_those_of_brute_force() -> None:
    found = _candidates()
    chosen = spread_out(found, 6, NOTHING, LOOSE)
    assert chosen[0] == int(found.scores.argmax())
    for count in range(1, 6):
        distances = [
            -1.0
            if i in chosen[:count]
            else min(1 - float(found.embeddings[i] @ found.embeddings[c]) for c in chosen[:count])
            for i in range(40)
        ]
        assert chosen[count] == int(np.argmax(distances))
    labelled = found.embeddings[:5]
    first = spread_out(found, 1, labelled, LOOSE)[0]
    assert first == int((found.embeddings @ labelled.T).max(axis=1).argmin())


@pytest.mark.method_line(42)
def test_caps_hold_and_near_copies_are_passed_over() -> None:
    found = _candidates(60)
    found.embeddings[30:] = found.embeddings[:30]
    chosen = spread_out(found, 20, NOTHING, Caps(per_image=2, per_patient_share=0.3))
    images = [found.images[i] for i in chosen]
    patients = [found.patients[i] for i in chosen]
    assert max(images.count(i) for i in images) <= 2
    assert max(patients.count(p) for p in patients) <= 6
    cosine = found.embeddings[chosen] @ found.embeddings[chosen].T - 2 * np.eye(len(chosen))
    assert cosine.max() <= 0.95
    assert spread_out(found, 5, found.embeddings[:30], Caps()) == []


@pytest.mark.method_line(42)
def test_the_order_in_which_candidates_come_does_not_matter() -> None:
    found = _candidates()
    order = np.random.default_rng(3).permutation(40)
    shuffled = Candidates(
        found.embeddings[order],
        found.scores[order],
        [found.images[i] for i in order],
        [found.patients[i] for i in order],
    )
    assert [int(order[i]) for i in spread_out(shuffled, 12, NOTHING, Caps())] == spread_out(found, 12, NOTHING, Caps())
    again = replace(found, scores=found.scores.copy())
    assert spread_out(again, 12, NOTHING, Caps()) == spread_out(found, 12, NOTHING, Caps())


@pytest.mark.method_line(42)
@pytest.mark.parametrize("size", [1, 7, 10, 50, 99])
def test_the_share_of_chance_is_exact(size: int) -> None:
    by_chance, by_class, by_score = shares_of_batch(size)
    assert by_chance == round(0.1 * size)
    assert by_chance + by_class + by_score == size
    assert by_class == round(0.66 * (size - by_chance))


@pytest.mark.method_line(43)
def test_classes_share_evenly_and_noise_goes_from_one_to_a_hundred() -> None:
    assert sum(quotas(31, [1, 2, 4]).values()) == 31
    assert set(quotas(31, [1, 2, 4]).values()) == {10, 11}
    betas = [noise_beta(r, 6) for r in range(6)]
    assert betas[0] == 1
    assert betas[-1] == pytest.approx(100)
    assert np.allclose(np.diff(np.log(betas)), np.log(100) / 5)
    assert noise_beta(0, 1) == 1


@pytest.mark.method_line(43)
def test_noise_draws_in_proportion_early_and_takes_the_best_late() -> None:
    scores = np.array([0.1, 0.3, 0.6])
    rng = np.random.default_rng(0)
    early = np.bincount([int(noisy_scores(scores, 1.0, rng).argmax()) for _ in range(4000)], minlength=3) / 4000
    assert np.allclose(early, scores, atol=0.03)
    late = [int(noisy_scores(scores, 100.0, rng).argmax()) for _ in range(200)]
    assert set(late) == {2}
    first, again = (noisy_scores(scores, 2.0, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)
