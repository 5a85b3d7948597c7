"""The item tower: padding, unseen items, and content that stands alone."""

import pytest
import torch
from scipy.sparse import csr_matrix

from shortlist.models import items as models_items
from shortlist.models.items import ItemTower


def tower(**options: object) -> ItemTower:
    torch.manual_seed(0)
    return ItemTower(6, 4, torch.randn(6, 3), **options)  # type: ignore[arg-type]


def test_chosen_rows_have_the_vectors_of_the_whole_table() -> None:
    items = tower()
    rows = torch.tensor([[0, 5], [3, 3]])
    torch.testing.assert_close(items(rows), items.all()[rows])


def test_padding_gives_zeros() -> None:
    assert tower()(torch.tensor([-1])).abs().sum() == 0


def test_an_item_unseen_in_training_is_described_by_its_content_alone() -> None:
    known = torch.tensor([True] * 5 + [False])
    items = tower(known=known)
    before = items.all()[5].clone()
    with torch.no_grad():
        items.embedding += 1.0
    torch.testing.assert_close(items.all()[5], before)


def test_an_unseen_item_without_content_has_the_zero_vector() -> None:
    items = ItemTower(3, 4, known=torch.tensor([True, True, False]))
    assert items.all()[2].abs().sum() == 0


def test_id_dropout_hides_ids_in_training_only() -> None:
    items = tower(id_dropout=0.5)
    content_only = ItemTower.all(tower(known=torch.zeros(6, dtype=torch.bool)))
    hidden = (items.train().all() == content_only).all(1).sum()
    assert 0 < hidden < 6
    assert not (items.eval().all() == content_only).all(1).any()


def test_without_content_ids_are_never_dropped() -> None:
    items = ItemTower(50, 4, id_dropout=0.9).train()
    torch.testing.assert_close(items.all(), items.embedding)


def test_content_of_another_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="content has 5 rows, the catalogue 6 items"):
        ItemTower(6, 4, torch.zeros(5, 3))


def sparse_and_dense_twins() -> tuple[ItemTower, ItemTower]:
    """Two towers with the same weights, whose content is kept in either way."""
    content = torch.randn(6, 3) * (torch.rand(6, 3) < 0.5)
    dense, kept = ItemTower(6, 4, content), ItemTower(6, 4, csr_matrix(content.numpy()))
    with torch.no_grad():
        kept.embedding.copy_(dense.embedding)
        kept.content.project.copy_(dense.content.project.weight.T)  # type: ignore[union-attr]
    return dense, kept


def test_sparse_content_gives_the_vectors_of_dense_content() -> None:
    dense, kept = sparse_and_dense_twins()
    torch.testing.assert_close(kept.all(), dense.all())
    torch.testing.assert_close(kept(torch.tensor([[4, -1, 2]])), dense(torch.tensor([[4, -1, 2]])))


def test_the_ids_of_a_large_catalogue_get_a_gradient_for_the_rows_used_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_items, "ROWS_FROM", 5)
    items = tower()
    items(torch.tensor([1, 4, 1])).sum().backward()
    gradient = items.embedding.grad.coalesce()  # type: ignore[union-attr]
    assert gradient.indices().tolist() == [[1, 4]]
    torch.testing.assert_close(gradient.values(), torch.tensor([[2.0] * 4, [1.0] * 4]))


def test_rows_of_no_columns_have_no_vectors() -> None:
    assert tower()(torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0, 4)
