__version__ = "0.1.0"

from .api import lazy

lazy(__name__)
