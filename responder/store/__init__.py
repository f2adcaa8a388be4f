"""The responder's own database: what must be decided once, and what may not be forgotten."""

from responder.store.database import new_id
from responder.store.location import data_folder, incident_folder, open_store
from responder.store.store import Store

__all__ = ["Store", "data_folder", "incident_folder", "new_id", "open_store"]
