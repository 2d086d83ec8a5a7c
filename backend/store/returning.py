"""Tiles that were labelled in part and may be asked for again, outside what is labelled."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session, aliased

from backend.store import masks
from backend.store.annotations import ANSWERED, answered
from backend.store.images import tile_split
from backend.store.tables import Annotation, Image, Mask, Model, Prediction, Project, Region, Tile

# Who answered so has no more to say of the tile.
_NOTHING_MORE: Final = ("artefact", "cannot tell")


def returns(tile_id: Any, model_id: Any) -> ColumnElement[bool]:
    """The condition that a tile that people answered is asked for again under a model.

    Its mask says something of it and not everything, the model looked at it knowing just that mask, and found a region
    outside. So no answer that the look did not know is ever asked over, and no model asks twice. Nobody left the tile
    out, could not tell, or labelled it on a suggestion of this model. Audit tiles have no such look.
    """
    # Names of their own: the query around this one may read the same tables.
    known, newer, looked, said = aliased(Mask), aliased(Mask), aliased(Prediction), aliased(Annotation)
    replaced = select(newer.id).where(
        newer.tile_id == known.tile_id, newer.version > known.version, newer.withdrawn_at.is_(None)
    )
    found = select(Region.id).where(Region.prediction_id == looked.id)
    outside = (
        select(looked.id)
        .join(known, known.id == looked.known_mask_id)
        .where(
            looked.tile_id == tile_id,
            looked.model_id == model_id,
            known.withdrawn_at.is_(None),
            known.reviewed_share > 0,
            known.reviewed_share < 1,
            ~replaced.exists(),
            found.exists(),
        )
    )
    version = select(Model.version).where(Model.id == model_id).scalar_subquery()
    nothing_more = or_(said.state != "present", said.scope.in_(_NOTHING_MORE), said.shown_version == version)
    settled = select(said.id).where(said.tile_id == tile_id, said.state.in_(ANSWERED), nothing_more)
    return and_(answered(tile_id), outside.exists(), ~settled.exists())


def is_asked_for(session: Session, project: Project, tile_id: int) -> bool:
    """Whether nobody answered a tile, or it is asked for again under the champion."""
    return bool(session.scalar(select(or_(~answered(tile_id), returns(tile_id, project.champion_id)))))


def known_part(session: Session, tile_id: int) -> Mask | None:
    """The mask that a look at a tile has to know: that of a train tile that people labelled in part.

    One that only came with the images is none: nobody looked at it here, and its tile is reviewed as a whole.
    """
    mask = masks.newest_counting(session, tile_id)
    if mask is None or not 0 < mask.reviewed_share < 1 or tile_id in masks.only_imported(session, [tile_id]):
        return None
    split = session.scalar(select(tile_split).join(Image, Image.id == Tile.image_id).where(Tile.id == tile_id))
    return mask if split == "train" else None
