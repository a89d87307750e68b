"""A strict stand-in of DataHub's server: what it accepts, a real one accepts; what a real one refuses, it refuses."""

from .server import GmsStandIn
from .writer import Rejection

__all__ = ["GmsStandIn", "Rejection"]
