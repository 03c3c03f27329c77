"""The index of each collection: found by size, kept level with the database, and looked after in the background."""

from voicevault.gallery.files import Limits
from voicevault.gallery.galleries import Galleries

__all__ = ["Galleries", "Limits"]
